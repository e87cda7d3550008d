"""`busworker relay`, and what `status` tells of a spool."""

import json
import subprocess
import sys

import pytest

from tests.support import Command, Home

UNREACHABLE = "amqp://127.0.0.1:1"
SHOP = """
from busworker import Bus, Topic
work = Topic("work", int)
bus = Bus("shop", spool="spool")

@bus.channel("pool").subscribe(work)
def handle(event): ...
"""
KEEPING = """
from busworker import Bus, Topic
bus = Bus("shop", broker="amqp://127.0.0.1:1", spool="spool")
print(bus.publish_many(Topic("work", int), range(5)).wait()[0].spooled)
"""


@pytest.fixture
def kept(home: Home) -> None:
    """Five messages are in the spool `spool`."""
    home.write("shop.py", SHOP)
    env = {name: value for name, value in home.env.items() if name != "BUSWORKER_BROKER"}
    done = subprocess.run([sys.executable, "-c", KEEPING], env=env, cwd=home.path, capture_output=True, check=False)
    assert done.stdout == b"True\n", done.stderr


def lines(command: Command, *args: str) -> tuple[int, str, list[str]]:
    done = command.run("relay", *args)
    return done.returncode, done.stdout, done.stderr.splitlines()


def test_what_is_kept_is_sent_once_and_counted(command: Command, kept: None) -> None:
    assert lines(command, "--spool", "spool", "--count") == (0, "5\n", [])
    assert lines(command, "--app", "shop") == (0, "5\n", [])
    assert lines(command, "--app", "shop") == (0, "0\n", [])
    dead = json.loads(command.run("dead", "list", "unrouted", "--json").stdout)
    assert sorted(letter["body"] for letter in dead) == [0, 1, 2, 3, 4]


def test_what_can_not_be_sent_stays(command: Command, kept: None) -> None:
    code, out, errors = lines(command, "--spool", "spool", "--broker", UNREACHABLE)
    assert (code, out, len(errors)) == (69, "0\n", 1), errors
    assert lines(command, "--spool", "spool", "--count")[1] == "5\n"


def test_a_spool_that_was_never_used_is_empty_and_is_not_made(command: Command, home: Home) -> None:
    assert lines(command, "--spool", "nowhere") == (0, "0\n", [])
    assert not (home.path / "nowhere").exists()


def test_without_a_spool_it_says_how_to_name_one(command: Command) -> None:
    code, out, errors = lines(command)
    assert (code, out, len(errors)) == (2, "", 1)
    assert "--spool FOLDER" in errors[0]


def test_status_tells_what_is_in_the_spool(command: Command, home: Home, kept: None) -> None:
    service = command.start("start", "shop")
    service.wait_log("consumer shop.pool ready")
    assert "spool: 5 messages wait" in command.run("status").stdout
    told = json.loads(command.run("status", "--json").stdout)["spool"]
    assert told == {"folder": str(home.path / "spool"), "messages": 5}
    assert lines(command, "--app", "shop")[1] == "5\n"
    assert json.loads(command.run("status", "--json").stdout)["spool"]["messages"] == 0
    assert service.terminate() == 0
