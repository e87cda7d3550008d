"""Publishing from an ordinary process: one background thread owns the session, batches, and ends every receipt.

`publish` only appends to a bounded buffer. The thread takes what has gathered, stores it in one transaction (on the
engine) or with pipelined confirms (on AMQP), and concludes the receipts. While the broker can't be used it keeps
trying until each message's deadline, unless the file system doesn't let this process make the store at all. After a
fork the child starts with a fresh, empty publisher of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import logging
import os
import secrets
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from busworker import settings
from busworker.brokers import parse
from busworker.errors import BrokerUnavailable, BusworkerError, PublishFailed
from busworker.message import Outgoing
from busworker.receipt import Receipt, conclude

if TYPE_CHECKING:
    from busworker.broker.session import Session
    from busworker.bus import Bus

log = logging.getLogger("busworker.publisher")

BATCH = 1000
MAX_PENDING = 10_000
MAX_PENDING_BYTES = 64 * 1024 * 1024
RETRY_DELAYS = (0.05, 0.1, 0.2, 0.5, 1.0)
LEAST_PATIENCE = 0.1
"""Seconds that a try may take whose deadline is nearer than that."""


class Pending(msgspec.Struct, gc=False):
    """A message in the buffer; `deadline` is monotonic seconds, `sent` says that a broker may have stored it."""

    outgoing: Outgoing
    receipt: Receipt
    deadline: float
    sent: bool = False


class Publisher:
    """Publishes messages of one bus from this process.

    Args:
        url: the broker.
        deadline: seconds after which a receipt that isn't confirmed has failed.
    """

    def __init__(self, url: str, deadline: float) -> None:
        self._url = url
        self._deadline = deadline
        self._reached = False
        self._reset()
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        # The thread is gone and the messages are the parent's to send: no receipt here may wait for them. The session
        # is left, not closed: its connection belongs to the parent.
        pending = [one.receipt for one in (*self._batch, *self._buffer)]
        self._reset()
        conclude(pending, "unknown", PublishFailed("it is the parent process that publishes this message"))

    def _reset(self) -> None:
        # Ids are random once a process, and counted: a tenth of the time that a random one each takes.
        self._origin, self._numbers = secrets.token_hex(8), itertools.count(1)
        self._changed = threading.Condition()
        self._buffer: deque[Pending] = deque()
        self._bytes = 0
        self._batch: list[Pending] = []
        self._closing = False
        self._error: BrokerUnavailable | None = None
        self._thread: threading.Thread | None = None

    def publish(self, outgoing: Outgoing, *, immediately: bool = False) -> Receipt:
        """Takes a message; see `Bus.publish`. `immediately` changes nothing outside an attempt."""
        id = outgoing.id
        if not id:
            id = outgoing.properties["message_id"] = f"{self._origin}{next(self._numbers):016x}"
        receipt = Receipt(id)
        pending = Pending(outgoing, receipt, time.monotonic() + self._deadline)
        with self._changed:
            if self._full() and not self._wait_for_room(pending):
                conclude(
                    [receipt], "failed", PublishFailed("the publisher's buffer is full: the broker doesn't keep up")
                )
                return receipt
            self._buffer.append(pending)
            self._bytes += len(outgoing.body)
            if self._thread is None:
                self._start()
            if len(self._buffer) == 1:
                self._changed.notify_all()
        return receipt

    def flush(self, timeout: float | None = None) -> None:
        """Waits until nothing is pending.

        Raises:
            TimeoutError: `timeout` seconds were not enough.
        """
        with self._changed:
            if not self._changed.wait_for(self._is_idle, timeout):
                raise TimeoutError(f"{len(self._buffer) + len(self._batch)} messages are still not confirmed")

    def close(self) -> None:
        """Flushes, at most until the last deadline, and ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(self._deadline + 5)

    def _full(self) -> bool:
        return len(self._buffer) >= MAX_PENDING or (self._bytes >= MAX_PENDING_BYTES and bool(self._buffer))

    def _wait_for_room(self, pending: Pending) -> bool:
        left = pending.deadline - time.monotonic()
        return not _in_event_loop() and self._changed.wait_for(lambda: not self._full(), left)

    def _start(self) -> None:
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="busworker publisher", daemon=True)
        self._thread.start()

    def _is_idle(self) -> bool:
        return not self._buffer and not self._batch

    # The thread

    def _run(self) -> None:
        session: Session | None = None
        try:
            while (batch := self._next_batch(_heartbeat_due(session))) != []:
                session = _kept_alive(session) if batch is None else self._send(batch, session)
        except BaseException:
            self._abandon()  # an error of our own, told by threading: nobody may wait for ever
            raise
        finally:
            if session is not None:
                session.close()

    def _next_batch(self, timeout: float | None) -> list[Pending] | None:
        """Waits for messages, at most `timeout` seconds: then None. An empty batch says that there will be none."""
        with self._changed:
            self._batch = []
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._buffer or self._closing, timeout):
                return None
            take = self._buffer.popleft
            batch = [take() for _ in range(min(len(self._buffer), BATCH))]
            self._bytes -= sum([len(pending.outgoing.body) for pending in batch])
            self._batch = batch
            if not batch:
                self._thread = None
            return batch

    def _abandon(self) -> None:
        with self._changed:
            left = [*self._batch, *self._buffer]
            self._batch, self._bytes, self._thread = [], 0, None
            self._buffer.clear()
            self._changed.notify_all()
        conclude([pending.receipt for pending in left], "unknown", PublishFailed("the publisher's thread has failed"))

    def _send(self, batch: list[Pending], session: Session | None) -> Session | None:
        """Sends a batch, trying again until each message's deadline; returns the session to go on with."""
        for pause in itertools.chain(RETRY_DELAYS, itertools.repeat(RETRY_DELAYS[-1])):
            batch = self._without_late(batch)
            if not batch:
                break
            session, error = self._attempt(batch, session)
            self._error = error if isinstance(error, BrokerUnavailable) and not self._is_final(error) else None
            if error is None:
                conclude([pending.receipt for pending in batch], "confirmed")
                break
            if self._error is None:
                self._fail(batch, error)
                break
            time.sleep(min(pause, _left(batch)))
        return session

    def _attempt(self, batch: list[Pending], session: Session | None) -> tuple[Session | None, BusworkerError | None]:
        try:
            if session is None:
                session = self._connected(_left(batch))
            for pending in batch:
                pending.sent = not session.broker.embedded
            session.publish([pending.outgoing for pending in batch], max(_left(batch), LEAST_PATIENCE))
        except BusworkerError as error:
            if session is not None and session.broker.scheme == "memory" and not session.is_over():
                return session, error  # such a bus is wiped as soon as nobody has a session
            if session is not None:
                session.close()
            return None, error
        return session, None

    def _is_final(self, error: BusworkerError) -> bool:
        """Whether trying again is no use; a store that has been reached once may come back whatever it says now."""
        from busworker.broker.connection import is_final

        return not self._reached and is_final(parse(self._url)[0], error)

    def _connected(self, left: float) -> Session:
        from busworker.broker.connection import CONNECT_TIMEOUT
        from busworker.broker.session import open_session

        patience = min(max(left, LEAST_PATIENCE), CONNECT_TIMEOUT)
        session = open_session(self._url, patience=patience, heartbeats=True)
        session.declare()
        self._reached = True
        return session

    def _without_late(self, batch: list[Pending]) -> list[Pending]:
        """Ends those whose deadline has passed, unless it is worth a try: the last one was no failure."""
        if self._error is None:
            return batch
        now = time.monotonic()
        self._fail([pending for pending in batch if pending.deadline <= now], self._error)
        return [pending for pending in batch if pending.deadline > now]

    def _fail(self, batch: list[Pending], error: BusworkerError) -> None:
        if batch:
            log.error("%d message(s) could not be published: %s", len(batch), error)
            conclude([pending.receipt for pending in batch if not pending.sent], "failed", error)
            conclude([pending.receipt for pending in batch if pending.sent], "unknown", error)


def _left(batch: list[Pending]) -> float:
    """Seconds until the first deadline of a batch, 0 if it has passed."""
    return max(0.0, min(pending.deadline for pending in batch) - time.monotonic())


def _heartbeat_due(session: Session | None) -> float | None:
    return None if session is None or session.broker.embedded else session.next_due()


def _kept_alive(session: Session | None) -> Session | None:
    """The session, unless its broker has gone silent: the next batch gets a new one then."""
    assert session is not None
    try:
        session.keep_alive()
    except BusworkerError as error:
        log.debug("the idle connection is given up: %s", error)
        session.close()
        return None
    return session


def open_port(bus: Bus) -> Publisher:
    """The publisher of a bus in this process; flushed when the interpreter exits."""
    publisher = Publisher(settings.broker_of(bus.broker), bus.publish_deadline)
    atexit.register(publisher.close)
    return publisher


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
