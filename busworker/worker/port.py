"""Where `bus.publish` goes in a worker: along with the attempt's outcome, or at once through the consumer."""

from __future__ import annotations

import time
import uuid
from contextvars import ContextVar
from hashlib import blake2b
from typing import Protocol

from busworker import log_fields
from busworker.errors import BusworkerError, PublishFailed
from busworker.ipc import frames
from busworker.message import READY_AT, Message, Outgoing, milliseconds
from busworker.receipt import Receipt, conclude

_TRAVELS = "messages published in an attempt go out after the handler has returned; publish with immediately=True"


class Attempt:
    """What the handler of one message has published so far; closed when it has ended."""

    def __init__(self, message: Message, subscription: str) -> None:
        self.message = message
        self.subscription = subscription
        self.outgoing: list[Outgoing] = []
        self.receipts: list[Receipt] = []
        self.is_open = True

    def take(self, outgoing: Outgoing) -> Receipt:
        """Keeps a message until the outcome; a repeat of the attempt gives its n-th message the same id."""
        properties = outgoing.properties
        number = len(self.outgoing) + 1
        if "message_id" not in properties:
            name = f"{self.message.id}\0{self.subscription}\0{number}".encode("utf-8", "surrogatepass")
            properties["message_id"] = blake2b(name, digest_size=16).hexdigest()
            outgoing.headers.setdefault(READY_AT, milliseconds(time.time()))
        if self.message.correlation_id is not None:
            properties.setdefault("correlation_id", self.message.correlation_id)
        receipt = Receipt(outgoing.id, self._refuse_waiting)
        self.outgoing.append(outgoing)
        self.receipts.append(receipt)
        return receipt

    def end(self, *, failed: bool) -> None:
        """No more is taken. Receipts of a failed attempt have failed; of the others nobody here learns more."""
        self.is_open = False
        if not self.receipts:
            return
        if failed:
            conclude(self.receipts, "failed", PublishFailed("the attempt that published it failed"))
        else:
            conclude(self.receipts, "unknown", PublishFailed("it went out with the outcome of its attempt"))

    def _refuse_waiting(self) -> None:
        if current.get() is self and self.is_open:
            raise RuntimeError(f"this receipt can't be waited for here: {_TRAVELS}")


current: ContextVar[Attempt | None] = ContextVar("busworker_attempt", default=None)
"""The attempt that the running code belongs to."""


def enter(attempt: Attempt) -> None:
    """Has the running code, as far as its context variables reach, belong to an attempt."""
    current.set(attempt)
    log_fields.message.set(attempt.message)


class Outbox(Protocol):
    """Where a message goes that is published at once: the worker's `Mailbox`."""

    def publish(self, outgoing: list[Outgoing], timeout: float) -> frames.Published:
        """See `Mailbox.publish`."""
        ...


class WorkerPort:
    """The publish port of a worker (`busworker.bus.PublishPort`).

    Args:
        mailbox: the way to the consumer.
        deadline: seconds until a message published at once has failed.
    """

    def __init__(self, mailbox: Outbox, deadline: float) -> None:
        self._mailbox = mailbox
        self._deadline = deadline

    def publish(self, outgoing: Outgoing, *, immediately: bool) -> Receipt:
        """Takes a message into the running attempt; outside of one, or if wanted, publishes it before returning."""
        attempt = current.get()
        if attempt is not None and attempt.is_open and not immediately:
            return attempt.take(outgoing)
        if "message_id" not in outgoing.properties:
            # Not counted: a child that a handler has forked may be here too.
            outgoing.properties["message_id"] = uuid.uuid4().hex
            outgoing.headers.setdefault(READY_AT, milliseconds(time.time()))
        receipt = Receipt(outgoing.id)
        try:
            answer = self._mailbox.publish([outgoing], self._deadline)
        except BusworkerError as refused:
            conclude([receipt], "failed", refused)
            return receipt
        if answer.error is None:
            conclude([receipt], "confirmed")
        else:
            conclude([receipt], "unknown" if answer.unknown else "failed", PublishFailed(answer.error))
        return receipt

    def flush(self, timeout: float | None) -> None:
        """Nothing is ever pending outside an attempt.

        Raises:
            RuntimeError: called within an attempt.
        """
        attempt = current.get()
        if attempt is not None and attempt.is_open:
            raise RuntimeError(f"bus.flush() makes no sense here: {_TRAVELS}")

    def close(self) -> None:
        """Nothing to close: the connection is the consumer's."""
