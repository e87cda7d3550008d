"""contrib/completions: what shells complete."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import Command, Home
from tests.support.command import executable

FOLDER = Path(__file__).parents[2] / "contrib/completions"
BASH = FOLDER / "busworker.bash"


@pytest.mark.parametrize(
    ("shell", "file"), [("bash", "busworker.bash"), ("zsh", "_busworker"), ("fish", "busworker.fish")]
)
def test_the_files_are_what_the_command_prints(command: Command, shell: str, file: str) -> None:
    done = command.run(env={"_BUSWORKER_COMPLETE": f"{shell}_source"})
    assert (done.returncode, done.stderr) == (0, "")
    assert (FOLDER / file).read_text() == done.stdout, "write it anew, as contrib/completions/README.md says"


@pytest.mark.parametrize(
    ("words", "completed"),
    [(["su"], ["subscriptions"]), (["dead", "re"], ["replay"]), (["tail", "--l"], ["--limit"])],
)
def test_bash_completes_commands_and_options(home: Home, words: list[str], completed: list[str]) -> None:
    line = " ".join(["busworker", *words])
    script = (
        f"source {BASH}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _busworker_completion busworker; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = f"{executable().parent}{os.pathsep}{home.env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env=home.env | {"PATH": path}, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout.split(), done.stderr) == (completed, "")


def test_the_file_for_bash_is_sound() -> None:
    assert subprocess.run(["bash", "-n", BASH], capture_output=True, timeout=30, check=False).returncode == 0
