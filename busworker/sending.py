"""What the publisher's thread does: it owns the session, and ends the receipt of everything it is given.

While the broker can't be used it tries again until each message's deadline. With a spool it tries for a moment, and
keeps on disk what isn't delivered by then. Until the spool is empty again all goes through it: so the order stays.
"""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from busworker import fault_log
from busworker.brokers import parse
from busworker.errors import AlreadyStored, BrokerUnavailable, BusworkerError, MessageError, TopologyMismatch
from busworker.forks import OverForks
from busworker.log_fields import event
from busworker.message import Outgoing
from busworker.receipt import Receipt, conclude
from busworker.relaying import Relay

if TYPE_CHECKING:
    from busworker.broker.session import Session
    from busworker.spool import Spool

log = fault_log.logger("busworker.publisher")

RETRY_DELAYS = (0.05, 0.1, 0.2, 0.5, 1.0)
LEAST_PATIENCE = 0.1
"""Seconds that a try may take whose deadline is nearer than that."""
LOOK_EVERY = 1.0
"""Seconds between two looks at whether a spool holds anything."""
SPOOL_AFTER = 1.0
"""Seconds that delivering may take before a spool is used; a third of the deadline where that is less."""


_loading = OverForks()
"""Held while the broker's modules are imported: a child would find them half made for ever."""


def load(url: str, *, spool: bool) -> None:
    """Imports what sending to that broker takes, and what that would import later."""
    names = ["busworker.broker.session", "busworker.spool", "kombu.connection", "encodings.unicode_escape"]
    if spool or parse(url)[0].embedded:
        names += ["busworker.broker.embedded", "busworker.transports.transport"]
    if not parse(url)[0].embedded:
        names += ["busworker.broker.amqp", "busworker.transports.amqp", "encodings.idna"]  # the last by getaddrinfo
    with _loading:
        for name in names:
            importlib.import_module(name)


class Pending(msgspec.Struct, gc=False):
    """A message that waits; `deadline` is monotonic seconds, `sent` says that a broker may have stored it."""

    outgoing: Outgoing
    receipt: Receipt
    deadline: float
    sent: bool = False


class Sender:
    """Sends for one publisher. Belongs to its thread.

    Args:
        url: the broker.
        deadline: seconds that each message has from its publish.
        spool: the folder where messages are kept that the broker can't take; None: nowhere.
    """

    def __init__(self, url: str, deadline: float, spool: Path | None) -> None:
        self._url = url
        self._folder = spool
        self._spool: Spool | None = None
        self._relay: Relay | None = None
        self._spool_after = min(SPOOL_AFTER, deadline / 3)
        self._session: Session | None = None
        self._reached = False
        self._error: BusworkerError | None = None
        self._look_at = 0.0
        self._spooling = False
        self._spool_works = True

    def open(self) -> None:
        """Imports what sending takes; to be called first. Nobody who publishes waits for that."""
        load(self._url, spool=self._folder is not None)
        if self._folder is not None:
            from busworker.spool import Spool

            self._spool = Spool(self._folder)
            self._relay = Relay(self._url, self._folder)

    def send(self, batch: list[Pending]) -> None:
        """Sends messages; when it returns, the receipt of each has ended."""
        spool_at = time.monotonic() + self._spool_after if self._spool is not None else float("inf")
        for pause in itertools.chain(RETRY_DELAYS, itertools.repeat(RETRY_DELAYS[-1])):
            if self._keeps(batch, spool_at):
                return
            batch = self._without_late(batch)
            if not batch:
                return
            if not self._holds():
                batch = self._attempt(batch, min(_first_deadline(batch), spool_at))
            else:
                self.tend()  # a spool that takes no more is to be emptied
            if batch:
                time.sleep(max(0.0, min(pause, _first_deadline(batch) - time.monotonic())))

    def tend(self) -> None:
        """Does what is due although nothing is published: heartbeats, and sending what the spool has kept."""
        now = time.monotonic()
        if self._session is not None and not self._session.broker.embedded and self._session.next_due() <= 0:
            self._keep_alive(self._session)
        if now >= self._look_at and self._relay is not None and self._holds():
            self._look_at = now + LOOK_EVERY
            self._relay.wake()

    def next_due(self) -> float | None:
        """Seconds until `tend` is to be called; None: never."""
        due = float("inf") if self._session is None or self._session.broker.embedded else self._session.next_due()
        if self._spooling:
            due = min(due, max(0.0, self._look_at - time.monotonic()))
        return None if due == float("inf") else due

    def close(self) -> None:
        """Lets go of the broker and the spool."""
        self._give_up()
        if self._relay is not None:
            self._relay.stop()
        if self._spool is not None:
            self._spool.close()

    def forget(self) -> None:
        """In a forked child: the connections are the parent's."""
        if self._session is not None:
            self._session.forget()
        if self._relay is not None:
            self._relay.forget()
        if self._spool is not None:
            self._spool.forget()

    # Sending

    def _attempt(self, batch: list[Pending], until: float) -> list[Pending]:
        """Tries once; returns what isn't stored and may be tried again."""
        answers: Sequence[BusworkerError | None]
        try:
            session = self._session or self._connected(until)
            answers = session.publish([one.outgoing for one in batch], _patience(until))
        except BusworkerError as error:
            answers = [error] * len(batch)
        else:
            for one in batch:
                one.sent = not session.broker.embedded
        return self._judged(batch, answers)

    def _judged(self, batch: list[Pending], answers: Sequence[BusworkerError | None]) -> list[Pending]:
        conclude([one.receipt for one, error in zip(batch, answers, strict=True) if error is None], "confirmed")
        left, known, failed = list[Pending](), list[Pending](), dict[int, tuple[BusworkerError, list[Pending]]]()
        self._error = None
        for one, error in zip(batch, answers, strict=True):
            if isinstance(error, AlreadyStored):
                known.append(one)
            elif error is not None:
                one.sent = one.sent and not isinstance(error, MessageError | TopologyMismatch)
                if not isinstance(error, MessageError):
                    self._error = error
                if self._may_pass(error):
                    left.append(one)
                else:
                    failed.setdefault(id(error), (error, []))[1].append(one)
        conclude([one.receipt for one in known], "confirmed", duplicate=True)
        for error, those in failed.values():
            self._fail(those, error)
        if self._error is not None:
            self._lose()
        return left

    def _may_pass(self, error: BusworkerError) -> bool:
        """Whether trying again, or keeping it, is any use.

        Not if it can't be sent by anybody; nor if the broker says no for good, and there is no spool. A store that has
        been reached once may come back, whatever it says now.
        """
        from busworker.broker.connection import is_final

        if isinstance(error, MessageError) or self._spool is not None:
            return not isinstance(error, MessageError)
        return isinstance(error, BrokerUnavailable) and (self._reached or not is_final(parse(self._url)[0], error))

    def _connected(self, until: float) -> Session:
        from busworker.broker.connection import CONNECT_TIMEOUT
        from busworker.broker.session import open_session

        session = open_session(self._url, patience=min(_patience(until), CONNECT_TIMEOUT), heartbeats=True)
        try:
            session.declare(_patience(until))
        except BusworkerError:
            session.close()
            raise
        self._reached = True
        self._session = session
        return session

    def _lose(self) -> None:
        session = self._session
        if session is not None and (session.broker.scheme == "memory" or session.trouble) and not session.is_over():
            return  # such a bus is wiped as soon as nobody has a session; and an alarm holds for new connections too
        self._give_up()

    def _give_up(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _keep_alive(self, session: Session) -> None:
        try:
            session.keep_alive()
        except BusworkerError as error:
            log.debug("the idle connection is given up: %s", error)
            self._give_up()

    def _without_late(self, batch: list[Pending]) -> list[Pending]:
        """Ends those whose deadline has passed, unless it is worth a try: the last one was no failure."""
        if self._error is None:
            return batch
        now = time.monotonic()
        self._fail([one for one in batch if one.deadline <= now], self._error)
        return [one for one in batch if one.deadline > now]

    def _fail(self, batch: list[Pending], error: BusworkerError) -> None:
        if batch:
            told = event("publish_failed", fault=str(error))
            log.error("%d message(s) could not be published: %s", len(batch), error, extra=told)
            conclude([one.receipt for one in batch if not one.sent], "failed", error)
            conclude([one.receipt for one in batch if one.sent], "unknown", error)

    # The spool

    def _holds(self) -> bool:
        """Whether the spool keeps anything, so that all must go through it."""
        if self._spool is None:
            return False
        try:
            self._spooling = self._spool.count() > 0
        except BusworkerError as error:
            self._tell_trouble("the spool %s can't be read: %s", error)
        return self._spooling

    def _keeps(self, batch: list[Pending], spool_at: float) -> bool:
        """Puts messages into the spool, if it is time to; whether their receipts have ended."""
        if self._spool is None or not (self._holds() or time.monotonic() >= spool_at):
            return False
        try:
            self._spool.put([one.outgoing for one in batch])
        except BusworkerError as error:
            self._tell_trouble("nothing can be kept in %s: %s", error)
            return False
        self._spool_works = True
        if not self._spooling:
            text = "%s; what is published is kept in %s until it can be sent"
            log.warning(text, self._error, self._spool.folder, extra=event("spool_used", fault=str(self._error)))
            self._spooling = True
        conclude([one.receipt for one in batch], "confirmed", spooled=True)
        return True

    def _tell_trouble(self, text: str, error: BusworkerError) -> None:
        """Once, until something can be kept again."""
        if self._spool_works:
            log.warning(text, self._folder, error, extra=event("spool_failed", fault=str(error)))
        self._spool_works = False


def _first_deadline(batch: list[Pending]) -> float:
    return min(one.deadline for one in batch)


def _patience(until: float) -> float:
    return max(until - time.monotonic(), LEAST_PATIENCE)
