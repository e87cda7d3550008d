"""Dead letters from the lines that `dead export` has printed. Pure.

A line has what people read of a letter. What only the wire has, such as a correlation id, isn't in it.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import cast

import msgspec

from busworker.broker import topology
from busworker.copies import (
    ATTEMPTS,
    DEAD_AT,
    ERROR,
    FRAME_ROOM,
    PERSISTENT,
    REASON,
    WORKER,
    Target,
    json_text,
    wire_size,
)
from busworker.errors import DecodeError
from busworker.letters import DeadLetter, queue_of, read_letter
from busworker.message import ATTEMPT, HISTORY, REPLAY, TOPIC, Delivery, Headers, Outgoing

_lines = msgspec.json.Decoder(DeadLetter)


def read_line(line: bytes) -> Outgoing:
    """The message that a line stands for, on its way to where it lay.

    Raises:
        DecodeError: the line is none of an export, or says something that a message can't keep.

    Guarantees:
        What is stored is exported as the same line again, but for white space and the order of names.
    """
    try:
        letter, document = _lines.decode(line), msgspec.json.decode(line)
        body = base64.b64decode(letter.body_base64 or "", validate=True)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise DecodeError(f"this is no dead letter as dead export prints them: {error}") from error
    except ValueError as error:
        raise DecodeError(f"body_base64 is no base64: {error}") from error
    if letter.body_base64 is None:
        raise DecodeError("body_base64 is null: dead export writes it")
    outgoing = _buried(letter, body)
    _check(outgoing, document)
    return outgoing


def queue_at(outgoing: Outgoing) -> str:
    """The queue that a message read from a line is for."""
    return outgoing.routing_key if outgoing.exchange == "" else topology.UNROUTED


def _buried(letter: DeadLetter, body: bytes) -> Outgoing:
    target = _target(letter)
    headers: Headers = {**letter.headers, **(_unrouted if letter.subscription is None else _dead)(letter)}
    optional = {
        REASON: letter.reason,
        DEAD_AT: letter.dead_at,
        ERROR: None if letter.error is None else json_text(letter.error),
        WORKER: None if letter.worker is None else json_text(letter.worker),
    }
    headers |= {name: value for name, value in optional.items() if value is not None}
    if letter.history:
        # How often it was replayed: one entry each, if none has grown too old.
        headers |= {HISTORY: json_text(letter.history), REPLAY: len(letter.history)}
    return Outgoing(target.exchange, target.routing_key, body, _properties(letter), headers)


def _target(letter: DeadLetter) -> Target:
    if letter.subscription is None:
        return Target(topology.UNROUTED, letter.topic)  # to the exchange, since there the routing key is the topic
    return Target("", queue_of(letter.subscription))


def _dead(letter: DeadLetter) -> Headers:
    return {TOPIC: letter.topic, ATTEMPT: max(letter.attempts, 1), ATTEMPTS: letter.attempts}


def _unrouted(letter: DeadLetter) -> Headers:
    return {ATTEMPTS: letter.attempts} if letter.attempts else {}


def _properties(letter: DeadLetter) -> dict[str, object]:
    properties: dict[str, object] = {"delivery_mode": PERSISTENT, "type": letter.topic}
    if letter.body is not None:
        properties |= {"content_type": "application/json", "content_encoding": "utf-8"}
    if letter.id is not None:
        properties["message_id"] = letter.id
    if letter.published_at is not None:
        properties["timestamp"] = _seconds(letter.published_at)
    return properties


def _seconds(moment: str) -> int:
    try:
        return int(datetime.fromisoformat(moment).timestamp())
    except (ValueError, OverflowError) as error:
        raise DecodeError(f"published_at={moment!r} is no time") from error


def _check(outgoing: Outgoing, document: object) -> None:
    """Refuses what a broker can't carry, and what would be exported as something else.

    Raises:
        DecodeError: it is that.
    """
    if not len(outgoing.routing_key.encode()) <= 255:
        raise DecodeError("the topic is too long: AMQP has 255 bytes for it")
    if any(len(name.encode()) > 255 for name in outgoing.headers):
        raise DecodeError("the name of a header is too long: AMQP has 255 bytes for it")
    if (size := wire_size(outgoing.headers)) > FRAME_ROOM:
        raise DecodeError(f"the headers have about {size:,} bytes, and AMQP has {FRAME_ROOM:,} for them")
    stored = Delivery(
        0,
        queue_at(outgoing),
        outgoing.routing_key,
        redelivered=False,
        properties=outgoing.properties,
        headers=outgoing.headers,
        body=outgoing.body,
    )
    again = cast("dict[str, object]", msgspec.json.decode(json_text(read_letter(stored, with_bytes=True))))
    given = cast("dict[str, object]", document)
    for name, value in again.items():
        if given.get(name) != value:
            raise DecodeError(f"{name} can't be kept as it is: it would be read as {json_text(value)[:100]}")
