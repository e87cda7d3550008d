"""Programs that mypy and pyright, both strict, accept in full, and others that they reject exactly where marked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MARK = "# error"
STRICT_MYPY = ("--config-file=", "--strict", "--namespace-packages", "--explicit-package-bases", "--output=json")

Lines = set[tuple[str, int]]

pytestmark = pytest.mark.timeout(300)  # pyright fetches itself when it runs for the first time


def marked() -> Lines:
    return {
        (str(program.relative_to(HERE)), number)
        for program in HERE.glob("*/*.py")
        for number, line in enumerate(program.read_text().splitlines(), 1)
        if line.endswith(MARK)
    }


def place(file: str, line: int) -> tuple[str, int]:
    return str((ROOT / file).relative_to(HERE)), line


def run(*arguments: str | Path) -> str:
    """What a type checker of this interpreter's environment prints. It exits with 1, since it finds errors."""
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def told_by_mypy(cache: Path) -> dict[tuple[str, int], str]:
    out = run("mypy", *STRICT_MYPY, f"--cache-dir={cache}", HERE / "accept", HERE / "reject")
    errors = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return {place(e["file"], e["line"]): e["message"] for e in errors if e["severity"] == "error"}


def told_by_pyright() -> dict[tuple[str, int], str]:
    out = run("pyright", "--outputjson", "--pythonpath", sys.executable, "--project", HERE / "pyrightconfig.json")
    errors = json.loads(out[out.index("{") :])["generalDiagnostics"]
    return {place(e["file"], e["range"]["start"]["line"] + 1): e["message"] for e in errors if e["severity"] == "error"}


def difference(told: dict[tuple[str, int], str]) -> str:
    """The marked lines that were accepted, and the others that were rejected."""
    lines = [f"{file}:{line} was accepted" for file, line in sorted(marked() - told.keys())]
    lines += [f"{file}:{line} was rejected: {told[file, line]}" for file, line in sorted(told.keys() - marked())]
    return "\n".join(lines)


def test_only_programs_to_reject_have_marks() -> None:
    assert {file.split("/")[0] for file, _ in marked()} == {"reject"}
    assert {program.name for program in (HERE / "reject").glob("*.py")} == {Path(file).name for file, _ in marked()}


def test_mypy_rejects_exactly_the_marked_lines(tmp_path: Path) -> None:
    assert difference(told_by_mypy(tmp_path)) == ""


def test_pyright_rejects_exactly_the_marked_lines() -> None:
    assert difference(told_by_pyright()) == ""


def test_the_accepted_programs_run(tmp_path: Path) -> None:
    """What they declare is taken at run time as well; nothing is published."""
    for program in (HERE / "accept").glob("*.py"):
        done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
