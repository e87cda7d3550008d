"""`busworker dead import`: what `dead export` has printed becomes dead letters again."""

import json
import os
import signal
from typing import Any

import pytest

from busworker import copies, deadletters
from busworker.broker import topology
from busworker.broker.session import open_session
from busworker.letters import Filter
from busworker.message import Delivery, Outgoing, read_envelope
from busworker.outcome import Error, WorkerInfo
from tests.support import Command, Home, wait_until

WORK = topology.work_queue("user.registered", "email", "a")
DEAD = topology.dead_queue(WORK)
ODD: list[tuple[dict[str, Any], bytes]] = [
    ({"message_id": "m1"}, b'{"a": 1e400, "\xc2\x9b": [null, 18446744073709551616]}'),
    ({"message_id": "it's \x1b[31m\u202e", "correlation_id": "c", "timestamp": 1_700_000_000}, b"\xff\x00\n"),
    ({"content_type": "image/png", "priority": 3}, b""),
]
HEADERS: dict[str, object] = {"bytes": b"\xff", "list": [1, {"deep": None}], "nan": float("nan"), "ü": "\U0001f600"}


@pytest.fixture
def first(home: Home) -> str:
    """A bus with odd dead letters, one of which was replayed and died again, and with one that is unrouted."""
    url = f"filesystem://{home.path}/first"
    session = open_session(url)
    session.declare()
    session.declare_work("user.registered", "email", "a")
    _bury(session, [Delivery(1, WORK, "user.registered", False, one, HEADERS, body) for one, body in ODD])
    assert deadletters.replay(session, [DEAD], Filter(), 1, lambda: 1_700_000_000.5) == 1
    _bury(session, list(session.browse(WORK)))
    session.publish([Outgoing("busworker", "nobody.listens", b"1", {"message_id": "u1"}, {"mine": "x"})])
    session.close()
    return url


def _bury(session: Any, deliveries: list[Delivery]) -> None:
    letter = copies.Letter("exception", 3, "2026-01-01T00:00:00.000Z", Error("E", "why", "a\nb"), WorkerInfo("h", 7))
    target = topology.dead_target(WORK)
    session.publish([copies.dead_copy(one, read_envelope(one), letter, target) for one in deliveries])


def test_another_bus_exports_what_it_has_imported(command: Command, home: Home, first: str) -> None:
    lines = "".join(command.run("dead", "export", *place, "--broker", first).stdout for place in ((), ("unrouted",)))
    assert [len(json.loads(line)["history"]) for line in lines.splitlines()] == [0, 0, 1, 0]
    file = home.write("letters", lines)
    second = f"filesystem://{home.path}/second"
    done = command.run("dead", "import", str(file), "--broker", second)
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")
    for place in ((), ("unrouted",)):
        again = command.run("dead", "export", *place, "--broker", second).stdout
        assert again in lines
        assert again.count("\n") == (1 if place else 3)
    assert command.run("dead", "replay", "email", "--broker", second).returncode == 66, "nobody has subscribed there"


def test_rabbitmq_exports_what_it_has_imported_in_its_order(command: Command, first: str, amqp_url: str) -> None:
    lines = command.run("dead", "export", "--broker", first).stdout
    assert command.run("dead", "import", input="\n" + lines, env={"BUSWORKER_BROKER": amqp_url}).stdout == "3\n"
    assert command.run("dead", "export", "user.registered/email.a", "--broker", amqp_url).stdout == lines


def test_the_first_bad_line_is_named_and_those_before_it_are_stored(command: Command, first: str) -> None:
    line, *_ = command.run("dead", "export", "--broker", first).stdout.splitlines()
    bad = json.dumps(json.loads(line) | {"body_base64": "MQ=="})
    done = command.run("dead", "import", "-", "--broker", first, input=f"{line}\n\n{bad}\n{line}\n")
    assert (done.returncode, done.stdout) == (65, "1\n")
    assert "line 3: body can't be kept as it is" in done.stderr
    assert "nothing from this line on was stored" in done.stderr


def test_an_import_that_is_ended_tells_how_many_are_stored(command: Command, home: Home, first: str) -> None:
    exported = command.run("dead", "export", "--broker", first).stdout
    session = open_session(first)
    fifo = home.path / "fifo"
    os.mkfifo(fifo)
    importing = command.start("dead", "import", str(fifo), "--broker", first)
    with fifo.open("w") as pipe:
        pipe.write(exported + exported + '{"id": "m')
        pipe.flush()
        wait_until(lambda: len(list(session.browse(DEAD))) == 9, 20, "the lines that are whole are stored")
        assert importing.terminate() == 128 + signal.SIGTERM
    assert importing.stdout == "6\n"
    session.close()
