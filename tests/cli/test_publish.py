"""`busworker publish`: documents in, ids and counts out. Looked at through the unrouted queue."""

import json
import signal
import subprocess
from typing import Any

import pytest

from tests.support import Command, Home, wait_until
from tests.support.command import executable

APP = """
from dataclasses import dataclass
from busworker import Bus, Topic
@dataclass
class Order:
    number: int
bus = Bus("shop")
placed = Topic("order.placed", Order)
"""


@pytest.fixture(autouse=True)
def broker(home: Home, monkeypatch: pytest.MonkeyPatch) -> str:
    """The bus of the test, for all commands."""
    url = f"filesystem://{home.path}/bus"
    home.write("pyproject.toml", f"[tool.busworker]\nbroker = '{url}'")
    return url


def stored(command: Command) -> list[dict[str, Any]]:
    """What lies in the bus, oldest first."""
    done = command.run("dead", "export", "unrouted")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_document_is_stored_and_its_id_printed(command: Command) -> None:
    done = command.run("publish", "order.placed", '{"number": 1}')
    assert done.returncode == 0
    assert "nobody subscribes to 'order.placed'" in done.stderr
    (letter,) = stored(command)
    assert (letter["id"], letter["topic"], letter["body"]) == (done.stdout.strip(), "order.placed", {"number": 1})


def test_a_document_may_come_from_stdin_over_several_lines(command: Command) -> None:
    assert command.run("publish", "a", input='{\n"x": [1,\n 2]\n}\n').returncode == 0
    assert stored(command)[0]["body"] == {"x": [1, 2]}


def test_the_envelope_can_be_given(command: Command) -> None:
    done = command.run("publish", "a", "1", "--id", "my-id", "--header", "tenant=a=b", "--correlation-id", "c")
    assert done.stdout == "my-id\n"
    (letter,) = stored(command)
    assert (letter["id"], letter["headers"]) == ("my-id", {"tenant": "a=b"})


def test_lines_are_counted_and_empty_ones_skipped(command: Command) -> None:
    done = command.run("publish", "a", "-", input="1\n\n  \n2\r\n3")
    assert (done.returncode, done.stdout) == (0, "3\n")
    assert [letter["body"] for letter in stored(command)] == [1, 2, 3]


def test_the_first_bad_line_stops_it_and_what_came_before_is_stored(command: Command) -> None:
    done = command.run("publish", "a", "-", input="1\n\n2\n{bad\n3\n")
    assert (done.returncode, done.stdout) == (65, "2\n")
    assert "line 4" in done.stderr
    assert [letter["body"] for letter in stored(command)] == [1, 2]


def test_many_lines_are_stored_in_their_order(command: Command) -> None:
    done = command.run("publish", "a", "-", input="".join(f"{number}\n" for number in range(5000)))
    assert (done.returncode, done.stdout) == (0, "5000\n")
    assert [letter["body"] for letter in stored(command)] == list(range(5000))


def test_term_ends_it_and_what_was_stored_is_told(command: Command, home: Home) -> None:
    args = [executable(), "publish", "a", "-"]
    with subprocess.Popen(args, env=home.env, cwd=home.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sending:
        assert sending.stdin is not None
        sending.stdin.write(b"1\n2\n")
        sending.stdin.flush()
        wait_until(lambda: len(stored(command)) == 2, 20, "both are stored, while more may come")
        sending.terminate()
        told, _ = sending.communicate(timeout=20)
    assert (sending.returncode, told) == (128 + signal.SIGTERM, b"2\n")


@pytest.mark.parametrize("document", ["", "{", "nope", "NaN", '{"a": 1} x', "\udcff", '"\udcff"'])
def test_what_is_no_json_is_65(command: Command, document: str) -> None:
    done = command.run("publish", "a", document)
    assert (done.returncode, done.stdout) == (65, "")
    assert done.stderr.count("\n") == 1


def test_a_body_over_the_limit_is_65(command: Command) -> None:
    large = f'"{"x" * (16 * 1024 * 1024)}"'
    for args in (("publish", "a"), ("publish", "a", "-")):
        done = command.run(*args, input=large)
        assert done.returncode == 65
        assert "16 MiB" in done.stderr


def test_the_type_is_checked_with_an_application(command: Command, home: Home) -> None:
    home.write("app.py", APP)
    assert command.run("publish", "order.placed", '{"number": 1}', "--app", "app").returncode == 0
    done = command.run("publish", "order.placed", '{"number": "x"}', "--app", "app")
    assert (done.returncode, done.stdout) == (65, "")
    assert "number" in done.stderr
    assert len(stored(command)) == 1


def test_a_topic_unknown_to_the_application_is_published_with_a_warning(command: Command, home: Home) -> None:
    home.write("app.py", APP)
    done = command.run("publish", "order.plaecd", "1", "--app", "app")
    assert done.returncode == 0
    assert "knows no topic 'order.plaecd'" in done.stderr


@pytest.mark.parametrize("args", [("--id", "x" * 256), ("--header", "x-busworker-topic=a"), ("--correlation-id", "")])
def test_what_cannot_be_sent_is_65(command: Command, args: tuple[str, ...]) -> None:
    assert command.run("publish", "a", "1", *args).returncode == 65


def test_the_option_wins_over_the_variable(command: Command, home: Home, broker: str) -> None:
    env = {"BUSWORKER_BROKER": f"filesystem://{home.path}/other"}
    assert command.run("publish", "a", "1", "--broker", broker, env=env).returncode == 0
    assert not (home.path / "other").exists()
    assert len(stored(command)) == 1


def test_no_line_at_all_stores_nothing_and_needs_no_store(command: Command) -> None:
    done = command.run("publish", "order.placed", "-", input="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_an_id_that_is_printed_drives_no_terminal(command: Command) -> None:
    done = command.run("publish", "order.placed", "1", "--id", "a\x1b[31m\u202eb")
    assert (done.returncode, done.stdout) == (0, "a\\x1b[31m\\u202eb\n")
    assert stored(command)[0]["id"] == "a\x1b[31m\u202eb"
