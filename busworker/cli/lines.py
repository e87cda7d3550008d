"""JSON documents from bytes and lines, and publishing a stream of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from busworker.errors import DecodeError, EncodeError, MessageError, PublishFailed
from busworker.payload import MAX_BODY, Codec, within_limit
from busworker.receipt import Receipt

MOST = MAX_BODY + 2
"""Bytes that are read of a document: enough to see that it is too long."""
IN_FLIGHT = 2_000
"""Messages sent and not known to be stored yet; well within the publisher's buffer."""


class Stored:
    """Counts what the broker has confirmed."""

    def __init__(self) -> None:
        self.count = 0


def read_document(raw: bytes, check: Codec[Any]) -> bytes:
    """A document's bytes, without white space around them.

    Raises:
        EncodeError: there is none, or it is too long.
        DecodeError: it is no JSON, or doesn't fit its topic.
    """
    body = raw.strip(b" \t\r\n")
    if not body:
        raise EncodeError("there is no document: give JSON")
    check.decode(within_limit(body))
    return body


def documents(stream: BinaryIO, check: Codec[Any]) -> Iterator[bytes]:
    """The documents of a stream, one a line; empty lines are skipped.

    Raises:
        DecodeError: a line is no document; its number is named.
    """
    number = 0
    while line := stream.readline(MOST):
        number += 1
        if not line.strip(b" \t\r\n"):
            continue
        try:
            body = read_document(line, check)
        except MessageError as error:
            raise DecodeError(f"line {number}: {error}; nothing from this line on was published") from error
        yield body


def publish_all(
    bodies: Iterable[bytes],
    send: Callable[[bytes], Receipt],
    stored: Stored,
    told: Callable[[int], None],
) -> None:
    """Publishes documents in their order.

    Args:
        bodies: the documents; what raises there stops it.
        send: publishes one.
        stored: counts those that are confirmed; exact when this returns or raises.
        told: gets that number now and then.

    Raises:
        PublishFailed: one couldn't be stored; none after it is sent, but some may be on their way already.
    """
    pending: deque[Receipt] = deque()
    try:
        for body in bodies:
            pending.append(send(body))
            while len(pending) > IN_FLIGHT or (pending and pending[0].state != "pending"):
                _confirm(pending, stored, told)
        while pending:
            _confirm(pending, stored, told)
    finally:
        stored.count += sum(map(_is_stored, pending))


def _confirm(pending: deque[Receipt], stored: Stored, told: Callable[[int], None]) -> None:
    pending[0].wait()
    pending.popleft()
    stored.count += 1
    told(stored.count)


def _is_stored(receipt: Receipt) -> bool:
    try:
        receipt.wait()
    except PublishFailed:
        return False
    return True
