"""Many dead letters: the first page comes at once, and a replay shows how far it is and may be ended and run again."""

import json
import os
import pty
import re
import signal
import subprocess
import time

from busworker import copies
from busworker.broker import topology
from busworker.broker.session import Session
from busworker.message import Delivery, Outgoing, read_envelope
from busworker.outcome import Error, WorkerInfo
from tests.contract.bench import Bench, wait_ready
from tests.support import Command, Home, wait_until
from tests.support.command import executable

LETTERS = int(os.environ.get("DEAD_LETTERS", "2000"))
RATE = ("--rate", "1000") if LETTERS < 50_000 else ()
"""So that few letters too last until the replay is interrupted."""
FIRST_PAGE = 1.0
"""Seconds for the first page, of a process that has started; a start takes about 0.3 s."""
SELECTOR = "user.registered/email.welcome"
WORK = topology.work_queue("user.registered", "email", "welcome")
DEAD = topology.dead_queue(WORK)
PAGE = 1000


def letter(name: str) -> Outgoing:
    message = Delivery(1, WORK, "user.registered", False, {"message_id": name}, {}, b'{"user_id": 42}')
    error = Error("ValueError", "no such user", "Traceback (most recent call last):\n  …\n" * 10)
    told = copies.Letter("exception", 3, "2026-01-01T00:00:00.000Z", error, WorkerInfo("host", 42))
    return copies.dead_copy(message, read_envelope(message), told, topology.dead_target(WORK))


def replay(home: Home, url: str, *args: str) -> tuple[subprocess.Popen[str], int]:
    """A replay whose progress goes to a terminal, and that terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [executable(), "dead", "replay", SELECTOR, "--broker", url, *args],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**home.env, "TERM": "xterm"},
        text=True,
    )
    os.close(theirs)
    return process, ours


def number(text: str) -> int:
    found = re.fullmatch(r"replayed (\d+)\n", text)
    assert found, text
    return int(found[1])


def shown(terminal: int) -> str:
    """All that was written to it; the other end is closed."""
    parts: list[bytes] = []
    try:
        while part := os.read(terminal, 64 * 1024):
            parts.append(part)
    except OSError:  # EIO: nobody has it open any more
        pass
    os.close(terminal)
    return b"".join(parts).decode()


def test_a_replay_that_is_interrupted_and_run_again_takes_each_letter_once(
    bench: Bench, session: Session, home: Home, command: Command
) -> None:
    session.declare_work("user.registered", "email", "welcome")
    for first in range(0, LETTERS, PAGE):
        session.publish([letter(f"m{number}") for number in range(first, first + PAGE)])
    wait_ready(session, DEAD, LETTERS)
    began = time.monotonic()
    listed = command.run("dead", "list", SELECTOR, "--json", "--broker", bench.url)
    took = time.monotonic() - began
    assert len(json.loads(listed.stdout)) == 100
    assert took < FIRST_PAGE + 2.0

    replaying, terminal = replay(home, bench.url, *RATE)
    wait_until(lambda: (found := session.counts(WORK)) and found.ready > LETTERS // 4, 60, "a replay gets on")
    began = time.monotonic()
    replaying.send_signal(signal.SIGINT)
    done = number(replaying.communicate(timeout=60)[0])
    print(f"first page after {took:.2f} s; {done} replayed, ended {time.monotonic() - began:.2f} s after INT")
    said = shown(terminal)
    assert replaying.returncode == 128 + signal.SIGINT, said
    assert LETTERS // 4 < done < LETTERS
    assert "replayed" in said
    again, terminal = replay(home, bench.url)
    assert number(again.communicate(timeout=120)[0]) == LETTERS - done
    shown(terminal)
    wait_ready(session, WORK, LETTERS)
    assert {delivery.properties["message_id"] for delivery in session.browse(WORK)} == {
        f"m{number}" for number in range(LETTERS)
    }
