"""What a user can get wrong before anything runs: one line that says what to do, the exit code, nothing stored."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import Command, Home, wait_until
from tests.support.command import executable

GOOD = """
from busworker import Bus, Topic
bus = Bus("shop")
sold = Topic("sold", int)
@bus.channel("stock").subscribe(sold)
def take(number: int) -> None: pass
"""
TWICE = GOOD + "bus.channels['stock'].subscribe(sold)(take)\n"
BAD_TOPIC = GOOD.replace('"sold"', '"Sold out!"')
RAISES = "import nothing_of_that_name\n"
LEAVES = "raise SystemExit(0)\n"
GUARDED = "def __getattr__(name): raise ValueError(f'no {name} here')\n"
MUTE = """
class Mute(Exception):
    def __str__(self): raise RuntimeError
raise Mute
"""


def one_line(stderr: str) -> str:
    """The line on stderr; there must be no other."""
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("busworker: ")
    return lines[0]


def stored(command: Command) -> int:
    """How many messages lie in the default bus, subscribed or not; 0 if there is none."""
    listed = command.run("dead", "list", "unrouted", "--json", "--limit", "0")
    return len(json.loads(listed.stdout)) if listed.returncode == 0 else 0


@pytest.mark.parametrize("verb", ["start", "start --no-preload", "check"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (RAISES, ["app.py", "nothing_of_that_name"]),
        (LEAVES, ["SystemExit"]),
        (TWICE, ["sold", "shop.stock"]),
        (BAD_TOPIC, ["Sold out!", "a-z"]),
        (GUARDED, ["app:bus", "ValueError: no bus here"]),
        (MUTE, ["Mute: (its text can't be had: RuntimeError)", "app.py:4"]),
    ],
)
def test_an_application_that_is_wrong_is_78(
    command: Command, home: Home, verb: str, text: str, says: list[str]
) -> None:
    home.write("app.py", text)
    done = command.run(*verb.split(), "app")
    assert done.returncode == 78, done.stderr
    line = one_line(done.stderr)
    assert all(part in line for part in says), line
    assert stored(command) == 0


@pytest.mark.parametrize("verb", ["start", "check"])
def test_a_module_that_is_not_there_is_78(command: Command, verb: str) -> None:
    done = command.run(verb, "no_such_module")
    assert done.returncode == 78
    assert "no_such_module" in one_line(done.stderr)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("--app", "app", "sold", '"three"'), 65, "int"),
        (("sold", "{"), 65, "JSON"),
        (("Sold out!", "1"), 2, "Sold out!"),
        (("sold", "1", "--broker", "kafka://host"), 78, "amqp://"),
    ],
)
def test_what_cannot_be_published_is_not_stored(
    command: Command, home: Home, args: tuple[str, ...], code: int, says: str
) -> None:
    home.write("app.py", GOOD)
    done = command.run("publish", *args)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in one_line(done.stderr)
    assert stored(command) == 0


def test_a_line_that_is_no_json_is_named_and_those_before_it_are_stored(command: Command) -> None:
    done = command.run("publish", "sold", "-", input="1\n2\n{\n4\n")
    assert (done.returncode, done.stdout) == (65, "2\n")
    assert "line 3" in one_line(done.stderr)
    assert stored(command) == 2


def test_a_body_over_the_limit_is_not_stored(command: Command) -> None:
    done = command.run("publish", "sold", input=json.dumps("x" * 16 * 1024 * 1024))
    assert (done.returncode, done.stdout) == (65, "")
    assert "16" in one_line(done.stderr)
    assert stored(command) == 0


@pytest.mark.parametrize("verb", ["start", "publish"])
def test_a_file_that_is_no_database_is_69_and_left_alone(command: Command, home: Home, verb: str) -> None:
    home.write("app.py", GOOD)
    home.write("bus/bus.db", "this is a letter to my aunt, and no database at all\n" * 100)
    before = (home.path / "bus" / "bus.db").read_bytes()
    args = ("app",) if verb == "start" else ("sold", "1")
    done = command.run(verb, *args, "--broker", f"filesystem://{home.path}/bus")
    assert done.returncode == 69, done.stderr
    assert "bus.db" in one_line(done.stderr.splitlines()[-1])
    assert (home.path / "bus" / "bus.db").read_bytes() == before


@pytest.mark.parametrize("verb", ["start", "publish"])
@pytest.mark.parametrize("folder", ["/proc/busworker", "/dev/null/bus"])
def test_a_folder_that_cannot_be_written_is_69(command: Command, home: Home, verb: str, folder: str) -> None:
    home.write("app.py", GOOD)  # root may write everywhere but there
    args = ("app",) if verb == "start" else ("sold", "1")
    done = command.run(verb, *args, "--broker", f"filesystem://{folder}")
    assert done.returncode == 69, done.stderr
    assert folder in one_line(done.stderr.splitlines()[-1])
    assert not Path(folder).exists()


def test_a_second_start_is_73_and_disturbs_nothing(command: Command, home: Home) -> None:
    home.write("app.py", GOOD)
    first = command.start("start", "app")
    first.wait_log("ready")
    second = command.run("start", "app")
    assert second.returncode == 73
    line = one_line(second.stderr.splitlines()[-1])
    assert "shop" in line
    assert "--instance" in line
    assert first.exit_code is None
    assert first.terminate() == 0


def test_standard_streams_that_are_closed_get_nobody_elses_files(command: Command, home: Home) -> None:
    home.write("app.py", GOOD)
    script = f"exec {executable()} start app <&- >&- 2>&-"
    process = subprocess.Popen(["/bin/sh", "-c", script], cwd=home.path, env=home.env, start_new_session=True)
    try:

        def status() -> dict[str, Any]:
            done = command.run("status", "--json", "--service", "shop")
            return json.loads(done.stdout) if done.returncode == 0 else {}

        wait_until(lambda: status().get("state") == "running", 20.0, "the state running")
        (channel,) = status()["channels"]
        assert (channel["processed"], channel["failed"]) == (0, 0)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    again = command.start("start", "app")
    again.wait_log("ready")
    assert again.terminate() == 0


def test_a_document_is_published_without_any_output(command: Command, home: Home) -> None:
    script = f"exec {executable()} publish sold 1 >&- 2>&-"
    done = subprocess.run(["/bin/sh", "-c", script], cwd=home.path, env=home.env, timeout=30, check=False)
    assert done.returncode == 0
    assert stored(command) == 1


@pytest.mark.parametrize("args", ["start app", "check app", "publish sold 1", "publish sold -", "status", "dead list"])
@pytest.mark.parametrize(("broker", "says"), [("amqp://[", "'amqp://[' is no URL"), ("foo://", "amqps://host")])
def test_a_broker_that_cannot_be_is_78_before_anything_is_done(
    command: Command, home: Home, args: str, broker: str, says: str
) -> None:
    home.write("app.py", GOOD)
    done = command.run(*args.split(), "--broker", broker)
    assert (done.returncode, done.stdout) == (78, ""), done.stderr
    assert says in one_line(done.stderr)
    assert list(home.state.iterdir()) == []


@pytest.mark.parametrize("args", ["publish sold 1", "dead list unrouted"])
def test_a_file_of_tls_that_cannot_be_read_is_named(command: Command, args: str) -> None:
    done = command.run(*args.split(), "--broker", "amqps://u:secret@localhost/?cacertfile=/no/ca.pem")
    assert (done.returncode, done.stdout) == (78, "")
    assert "broker amqps://u:***@localhost/: cacertfile '/no/ca.pem' can't be read" in one_line(done.stderr)


@pytest.mark.parametrize("args", ["start app", "publish sold 1", "status", "dead list"])
def test_an_empty_option_is_named(command: Command, home: Home, args: str) -> None:
    home.write("app.py", GOOD)
    done = command.run(*args.split(), "--broker", "")
    assert done.returncode == 2
    assert "--broker is empty: give a value, or leave it out" in one_line(done.stderr)


@pytest.mark.parametrize("app", ["app", "app.py", "./app.py:bus"])
def test_a_current_folder_that_was_removed_is_named(home: Home, app: str) -> None:
    script = f"mkdir gone && cd gone && rmdir ../gone && exec {executable()} check {app}"
    done = subprocess.run(
        ["/bin/sh", "-c", script], cwd=home.path, env=home.env, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (78, "")
    assert "the current folder was removed: change to a folder that exists" in one_line(done.stderr)


def test_an_application_named_in_full_needs_no_current_folder(home: Home) -> None:
    path = home.write("app.py", GOOD)
    script = f"mkdir gone && cd gone && rmdir ../gone && exec {executable()} check {path}"
    done = subprocess.run(
        ["/bin/sh", "-c", script], cwd=home.path, env=home.env, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
