"""`busworker dead run`: the handler of a dead letter, called in the foreground."""

import re
import signal
from collections.abc import Iterator

import pytest

from busworker import copies
from busworker.broker import topology
from busworker.broker.session import Counts, Session, open_session
from busworker.message import Delivery, read_envelope
from busworker.outcome import Error, WorkerInfo
from tests.support import Command, Home

APP = """
import ctypes
from busworker import Bus, Message, Topic

bus = Bus("email")
welcomed, words = Topic("user.welcomed", dict), Topic("a.word", str)
a = bus.channel("a")
b = bus.channel("b")

@bus.on_worker_start
def connect():
    print("connects")

@bus.on_worker_stop
def leave():
    print("leaves")

@bus.around_attempt
def around(message):
    print("around", message.id)
    try:
        yield
    finally:
        print("after", message.id)

@a.subscribe(Topic("user.registered", dict), time_limit=1)
def send(event: dict, message: Message) -> None:
    message.extend(5)
    print(event, message.channel, message.attempt, message.max_attempts, message.correlation_id, message.headers)
    bus.publish(welcomed, {"text": "\\x1b[31m"})
    bus.publish(words, "now", id="w1", immediately=True).wait()
    secret = 42
    if event["fails"] == "badly":
        ctypes.string_at(0)
    if event["fails"]:
        raise SystemExit(f"no such user {secret}")

@b.subscribe(words)
async def count(word: str) -> None:
    raise ValueError("async too")
"""


@pytest.fixture
def session(home: Home) -> Iterator[Session]:
    """Dead letters of both channels: m1 fails, m2 doesn't, m3 isn't what the topic has, m4 is the async handler's,
    m5 crashes."""
    home.write("app.py", APP)
    session = open_session(f"filesystem://{home.path}/bus")
    session.declare()
    for topic, channel, id, body in (
        ("user.registered", "a", "m1", b'{"fails": true}'),
        ("user.registered", "a", "m2", b'{"fails": false}'),
        ("user.registered", "a", "m3", b"[]"),
        ("a.word", "b", "m4", b'"x"'),
        ("user.registered", "a", "m5", b'{"fails": "badly"}'),
    ):
        work = session.declare_work(topic, "email", channel)
        headers: dict[str, object] = {"x-busworker-attempt": 3, "tenant": "t"}
        message = Delivery(1, work, topic, False, {"message_id": id, "correlation_id": "c"}, headers, body)
        letter = copies.Letter("exception", 3, "2026-01-01T00:00:00.000Z", Error("E", "why"), WorkerInfo())
        session.publish([copies.dead_copy(message, read_envelope(message), letter, topology.dead_target(work))])
    yield session
    session.close()


def test_the_handler_is_called_and_nothing_is_settled_or_published(
    command: Command, home: Home, session: Session
) -> None:
    env = {"BUSWORKER_BROKER": session.broker.url, "BUSWORKER_APP": "app"}

    def run(*args: str, input: str | None = None) -> tuple[int, list[str], str]:
        done = command.run("dead", "run", *args, env=env, input=input)
        return done.returncode, done.stdout.splitlines(), done.stderr

    code, lines, said = run("m2", "email.a", "--app", "app")
    assert (code, said) == (0, "")
    assert lines[:2] == ["connects", "around m2"]
    assert lines[2] == "{'fails': False} email.a 3 8 c {'tenant': 't'}"
    assert lines[3:5] == ['publishes a.word w1 "now"', "after m2"]
    assert lines[5].startswith("publishes user.welcomed ")
    assert lines[5].endswith('{"text":"\\u001b[31m"}')
    assert lines[6:] == ["leaves", "returned"]

    code, lines, said = run("m1")
    assert (code, lines[-1]) == (1, "leaves")
    assert [line.split()[0] for line in lines].count("publishes") == 2
    assert said.splitlines()[0] == "Traceback (most recent call last):"
    assert said.splitlines()[-1] == "SystemExit: no such user 42"
    assert "busworker" not in said

    code, lines, said = run("m1", "--pdb", input="p secret + 1\nq\n")
    assert (code, "(Pdb) 43" in lines) == (1, True)

    code, _, said = run("m3")
    assert (code, "the body doesn't fit its topic" in said) == (65, True)
    code, _, said = run("m4", "a.word/email.b")
    assert (code, said.splitlines()[-1]) == (1, "ValueError: async too")
    code, _, said = run("m5")
    assert code == -signal.SIGSEGV
    assert re.search(r'Segmentation fault(.|\n)*app\.py", line \d+ in send', said)
    assert run("m1", "email.c")[0] == 66
    for topic, channel, there in (("user.registered", "a", 4), ("a.word", "b", 1)):
        work = topology.work_queue(topic, "email", channel)
        assert session.counts(topology.dead_queue(work)) == Counts(there, 0)
        assert session.counts(work) == Counts(0, 0)
    assert session.counts(topology.UNROUTED) == Counts(0, 0)
