"""Messages that are kept on this machine's disk while their broker can't take them, in the order of publishing.

A spool is a folder with the embedded store: each message is synced before its receipt is confirmed. One process at a
time sends from it, whoever gets the lock; what was sent is removed only after the broker has confirmed it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import msgspec

from busworker import fault_log
from busworker.broker import topology
from busworker.broker.session import Session, Settled, open_session
from busworker.errors import AlreadyStored, BrokerUnavailable, BusworkerError, DecodeError
from busworker.log_fields import event
from busworker.message import Delivery, Outgoing
from busworker.transports import store_exists

log = fault_log.logger("busworker.publisher")

MOST = 1_000_000
"""Messages that a spool takes."""
WINDOW = 1000
"""Messages that are sent at once."""
LOCK = "relay.lock"

Publish: TypeAlias = Callable[[Sequence[Outgoing]], "list[BusworkerError | None]"]
"""What became of each, as of `Session.publish`."""


class _Kept(msgspec.Struct, array_like=True, gc=False):
    """A message in the spool; `at` is the Unix time at which it got there."""

    outgoing: Outgoing
    at: float


class Spool:
    """One folder, seen by one process. For one thread at a time.

    Args:
        folder: absolute; made when the first message is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._url = f"filesystem://{quote(str(folder))}"
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(_Kept)
        self._session: Session | None = None
        self._lock: int | None = None

    def count(self) -> int:
        """How many messages are kept, those that are being sent included.

        Raises:
            BusworkerError: the store can't be read.
        """
        if self._session is None and not store_exists(self._url):
            return 0
        counts = self._opened().counts(topology.SPOOL)
        return 0 if counts is None else counts.ready + (counts.in_flight or 0)

    def put(self, outgoing: Sequence[Outgoing]) -> None:
        """Keeps messages, all or none, behind those that are kept.

        Raises:
            BrokerUnavailable: the spool is full, or its disk is, or it can't be written.
        """
        session = self._opened()
        if self.count() + len(outgoing) > MOST:
            raise BrokerUnavailable(f"the spool {self.folder} is full: it keeps {MOST:,} messages")
        now = time.time()
        bodies = (self._encoder.encode(_Kept(one, now)) for one in outgoing)
        session.publish([Outgoing("", topology.SPOOL, body, {"delivery_mode": 2}, {}) for body in bodies])

    def relay(self, publish: Publish) -> int | None:
        """Sends the oldest messages, at most `WINDOW`, in their order.

        Returns:
            How many left the spool; 0 if none is there. None: another process sends just now.

        Raises:
            BusworkerError: the broker can't be used, or takes none of them; they are kept.
        """
        session = self._opened()
        if not self._locked(session):
            return None
        deliveries = session.fetch(WINDOW)
        answers: list[BusworkerError | None] = []
        try:
            answers = self._answers(deliveries, publish)
        finally:
            answers += [_UNSENT] * (len(deliveries) - len(answers))
            settled = [_settled(one, error) for one, error in zip(deliveries, answers, strict=True)]
            session.settle(settled)
        refused = next((error for error in answers if isinstance(error, BrokerUnavailable)), None)
        gone = sum(one.verb == "ack" for one in settled)
        if refused is not None and not gone:
            raise refused
        return gone

    def close(self) -> None:
        """Lets go of the folder; what is kept stays. Using it again opens it anew."""
        if self._session is not None:
            self._session.close()
        self.forget()

    def forget(self) -> None:
        """In a forked child: its parent's store and lock stay the parent's."""
        if self._lock is not None:
            os.close(self._lock)
        self._session = self._lock = None

    def _opened(self) -> Session:
        if self._session is not None and self._session.is_over():
            self.close()  # the folder was removed, or is another
        if self._session is None:
            session = open_session(self._url)
            try:
                session.declare_spool()
            except BaseException:
                session.close()
                raise
            self._session = session
        return self._session

    def _locked(self, session: Session) -> bool:
        """Whether this process may send."""
        if self._lock is not None:
            return True
        try:
            descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BrokerUnavailable(f"the spool {self.folder} can't be locked: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            session.consume(topology.SPOOL, WINDOW)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._lock = descriptor
        return True

    def _answers(self, deliveries: list[Delivery], publish: Publish) -> list[BusworkerError | None]:
        """What became of each; one that nobody can read, or that AMQP can't carry, is set aside."""
        messages = [self._read(delivery.body) for delivery in deliveries]
        told = iter(publish([one for one in messages if isinstance(one, Outgoing)]) if messages else ())
        return [next(told) if isinstance(one, Outgoing) else one for one in messages]

    def _read(self, body: bytes) -> Outgoing | DecodeError:
        try:
            kept = self._decoder.decode(body)
        except msgspec.MsgspecError as error:
            return DecodeError(f"a message of the spool {self.folder} can't be read: {error}")
        if kept.outgoing.delay:
            kept.outgoing.delay = max(kept.outgoing.delay - (time.time() - kept.at), 0.0)
        return kept.outgoing


_UNSENT = BrokerUnavailable("it was not sent")


def _settled(delivery: Delivery, error: BusworkerError | None) -> Settled:
    if isinstance(error, BrokerUnavailable):
        return Settled(delivery.tag, "return")
    if error is None or isinstance(error, AlreadyStored):
        return Settled(delivery.tag, "ack")
    told = event("spool_aside", fault=str(error))
    log.error("%s; it is set aside in the queue %s of the spool", error, topology.SPOOL_ASIDE, extra=told)
    return Settled(delivery.tag, "ack", (Outgoing("", topology.SPOOL_ASIDE, delivery.body, {"delivery_mode": 2}, {}),))
