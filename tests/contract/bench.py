"""What the contract tests work with: sessions, foreign clients and processes on one bus, ended with the test."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import kombu

from busworker import outcome as how
from busworker.broker.session import Counts, Session, Settled, open_session
from busworker.broker.topology import EXCHANGE
from busworker.brokers import EMBEDDED
from busworker.bus import Bus
from busworker.consumer.dispatch import Held
from busworker.consumer.settling import Ended, step
from busworker.declaration import SubscriptionSpec
from busworker.message import Delivery, Outgoing, key_of, read_envelope
from busworker.outcome import Error, WorkerInfo
from tests.support import Home, wait_until

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 20.0
"""Seconds for what takes milliseconds on an idle machine."""
WINDOW = 100
FAILED = how.Raised(Error("ValueError", "no such user", "Traceback …"))


class Bench:
    """A bus with the sessions, connections and processes that a test opens on it."""

    def __init__(self, url: str, home: Home) -> None:
        self.url = url
        self.home = home
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0]

    @property
    def embedded(self) -> bool:
        return self.scheme in EMBEDDED

    def session(self, **options: Any) -> Session:
        """A session that has declared the bus."""
        session = open_session(self.url, **options)
        self._open.callback(session.close)
        session.declare()
        return session

    def consumer(self, *queues: str, window: int = WINDOW, **options: Any) -> Session:
        """A session that consumes."""
        session = self.session(**options)
        for queue in queues:
            session.consume(queue, window)
        return session

    def bus(self, deadline: float = 60.0, url: str | None = None) -> Bus:
        """A bus of an application in this process."""
        bus = Bus("signup", broker=url or self.url, publish_deadline=deadline)
        self._open.callback(bus.close)
        return bus

    def kombu(self) -> kombu.Connection:
        """A foreign program's connection."""
        transport = EMBEDDED.get(self.scheme)
        connection = kombu.Connection(self.url, transport=transport) if transport else kombu.Connection(self.url)
        self._open.callback(connection.release)
        return connection

    def start(self, script: str, *args: str) -> subprocess.Popen[str]:
        """A Python process on this bus, its URL the first argument; killed at the end of the test."""
        process = subprocess.Popen(
            [sys.executable, "-c", script, self.url, *args],
            cwd=REPOSITORY,
            env=self.home.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._open.callback(_end, process)
        return process


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # with what it forked, which may hold its output
    process.communicate()


# Publishing


def event(topic: str = "user.registered", body: bytes = b"{}", **properties: object) -> Outgoing:
    """A message to the bus, with a random id unless one is given."""
    return Outgoing(EXCHANGE, topic, body, {"message_id": uuid.uuid4().hex, "delivery_mode": 2, **properties}, {})


def events(count: int, topic: str = "user.registered") -> list[Outgoing]:
    """Messages with the ids m0, m1 and so on."""
    return [event(topic, message_id=f"m{number}") for number in range(count)]


def ids(messages: Sequence[Delivery | Outgoing]) -> list[object]:
    """Their message ids."""
    return [message.properties.get("message_id") for message in messages]


# Consuming


def fetched(session: Session, count: int, window: int = WINDOW, timeout: float = PATIENCE) -> list[Delivery]:
    """The next deliveries: exactly so many."""
    found: list[Delivery] = []

    def enough() -> bool:
        found.extend(session.fetch(window))
        return len(found) >= count

    wait_until(enough, timeout, lambda: f"{count} deliveries; there are {len(found)}")
    assert len(found) == count, ids(found)
    return found


def wait_ready(session: Session, queue: str, count: int) -> Counts:
    """The counts of a queue, once so many of its messages can be fetched; a broker may tell late."""

    def settled() -> Counts | None:
        counts = session.counts(queue)
        return counts if counts is not None and counts.ready == count else None

    return wait_until(settled, PATIENCE, lambda: f"{count} ready in {queue}; there are {session.counts(queue)}")


def queued(session: Session, queue: str, count: int) -> list[Delivery]:
    """The messages of a queue, oldest first, once there are so many."""
    wait_ready(session, queue, count)
    return list(session.browse(queue, newest_first=False))


# Settling


def ack(delivery: Delivery, *publishes: Outgoing) -> Settled:
    """Done with it, and what that publishes."""
    return Settled(delivery.tag, "ack", publishes)


def end(session: Session, delivery: Delivery, outcome: how.Outcome, **policy: Any) -> int:
    """Settles a delivery as a consumer does after that outcome; returns the retry delay, 0 if there is none."""
    envelope = read_envelope(delivery)
    held = Held(delivery, envelope, key_of(delivery, envelope), 0)
    done = step(Ended(held, outcome, WorkerInfo("host", 42, "SIGSEGV")), subscription(**policy), now=1_700_000_000.5)
    session.declare_retry(done.delay)
    session.settle([done.item])
    return done.delay


def subscription(**policy: Any) -> SubscriptionSpec:
    """A subscription with that retry policy."""
    given: Mapping[str, Any] = {"max_attempts": 5, "delays": (1.0,), **policy}
    return SubscriptionSpec(
        topic="#", pattern=True, time_limit=None, kill_after=1.0, max_attempts=given["max_attempts"],
        delays=given["delays"],
    )  # fmt: skip
