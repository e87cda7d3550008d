"""`busworker check`: what an application declares, and what is wrong with it."""

import os

import pytest

from tests.support import Command, Home

APP = """
from busworker import Bus, Pattern, RetryPolicy, Topic
bus = Bus("email", broker="amqp://user:secret@host//")
welcome = bus.channel("welcome", processes=3, memory_limit="512MB", max_messages=100)
@welcome.subscribe(Topic("user.registered", dict[str, int]), time_limit=None, retry=RetryPolicy(max_attempts=2))
def send(event): pass
audit = bus.channel("audit")
@audit.subscribe(Pattern("user.#"))
def note(event): pass
"""


@pytest.mark.parametrize("how", [("app",), ("app.py:bus",), ("--app", "app")])
def test_it_shows_what_is_declared(command: Command, home: Home, how: tuple[str, ...]) -> None:
    home.write("app.py", APP)
    done = command.run("check", *how)
    assert done.returncode == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[:2] == ["service email", "broker  amqp://user:***@host//"]
    assert (
        "channel email.welcome: processes 3, concurrency 1, memory limit 488 MiB, recycled after 100 messages" in lines
    )
    assert any(line.split()[:5] == ["user.registered", "app.send", "2", "none", "5"] for line in lines)
    assert any(line.split()[:2] == ["user.#", "app.note"] for line in lines)


def test_the_application_may_come_from_settings(command: Command, home: Home) -> None:
    home.write("app.py", APP)
    assert command.run("check", env={"BUSWORKER_APP": "app"}).returncode == 0
    home.write("pyproject.toml", "[tool.busworker]\napp = 'app.py'")
    assert command.run("check").returncode == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bus = 1", "of type int and no Bus"),
        ("from busworker import Bus\nbus = Bus('x')", "has no channels"),
        ("from busworker import Bus\nbus = Bus('x')\nbus.channel('c')", "has no subscriptions"),
        ("import sys\nsys.exit('no way')", "SystemExit: no way at"),
        ("raise RuntimeError('\\x1b[31m\\nred')", "RuntimeError: \\x1b[31m red at"),
        (APP + "bus.channel('audit')", "two channels 'audit'"),
        (APP + "bus.publish(Topic('a', int), 1)", "publishes while its application is imported"),
        (APP + "bus.imports = ('not_there',)", "imports of service email: there is no module 'not_there'"),
    ],
)
@pytest.mark.parametrize("name", ["check", "start"])
def test_a_bad_application_is_one_line_and_78(command: Command, home: Home, text: str, said: str, name: str) -> None:
    home.write("app.py", text)
    done = command.run(name, "app")
    assert (done.returncode, done.stdout) == (78, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_traceback_is_shown_when_asked_for(command: Command, home: Home) -> None:
    home.write("app.py", "1 / 0")
    done = command.run("start", "app", "--log-level", "debug")
    assert "Traceback" in done.stderr


def test_channels_that_do_not_exist_are_2_and_those_that_do_are_listed(command: Command, home: Home) -> None:
    home.write("app.py", APP)
    done = command.run("start", "app", "--channel", "welcom")
    assert done.returncode == 2
    assert "it has welcome, audit" in done.stderr


def test_the_store_is_checked_and_a_whole_one_left_alone(command: Command, home: Home) -> None:
    url = f"filesystem://{home.path}/bus"
    done = command.run("check", "--store", "--broker", url)
    assert (done.returncode, done.stdout) == (69, "")
    assert "there is no store at" in done.stderr
    assert not (home.path / "bus").exists()
    assert command.run("publish", "user.registered", "{}", "--broker", url).returncode == 0
    for options in ([], ["--repair"]):
        done = command.run("check", "--store", *options, "--broker", url)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("whole     1 queues, 1 messages ready, 0 in flight; ")
    assert not list((home.path / "bus").glob("*damaged*"))


def test_a_damaged_store_is_told_and_repaired(command: Command, home: Home) -> None:
    url, file = f"filesystem://{home.path}/bus", home.path / "bus" / "bus.db"
    assert command.run("publish", "user.registered", "{}", "--broker", url).returncode == 0
    with file.open("r+b") as store:
        store.seek(-4096, os.SEEK_END)
        store.write(b"\xa5" * 4096)
    done = command.run("check", "--store", "--broker", url)
    assert (done.returncode, done.stderr.count("\n")) == (69, 1)
    assert done.stdout.startswith("wrong     ")
    assert done.stderr.endswith("isn't whole: run `busworker check --store --repair`\n")
    done = command.run("check", "--store", "--repair", "--broker", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"the damaged file as {file}.damaged-" in done.stdout
    assert command.run("publish", "user.registered", "{}", "--broker", url).returncode == 0
    done = command.run("check", "--store", "--broker", url)
    assert (done.returncode, done.stdout.split()[:5]) == (0, ["whole", "1", "queues,", "2", "messages"])


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ("--repair", 2, "--repair goes with --store"),
        ("--store --broker amqp://u:secret@h", 78, "broker amqp://u:***@h has no store to check"),
        ("--store --broker nonsense", 78, "no scheme we know"),
    ],
)
def test_what_has_no_store_is_told(command: Command, args: str, code: int, said: str) -> None:
    done = command.run("check", *args.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert said in done.stderr
