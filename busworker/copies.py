"""The copies a consumer makes of a message: for a retry queue, for the dead letters, for a replay. Pure.

A copy carries the original bytes and a whitelist of properties. `user_id` would close the channel of a foreign copy,
`expiration` would delete the dead letter, `CC` would multiply it (all tried on RabbitMQ 3.10).
"""

from __future__ import annotations

from typing import cast

import msgspec

from busworker.message import (
    ALONE,
    ATTEMPT,
    HISTORY,
    OWN_PREFIX,
    READY_AT,
    REPLAY,
    TOPIC,
    Delivery,
    Envelope,
    Headers,
    Outgoing,
    as_text,
    is_brokers,
)
from busworker.outcome import Error, WorkerInfo

KEPT_PROPERTIES = (
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "message_id",
    "timestamp",
    "type",
    "app_id",
    "priority",
)
PERSISTENT = 2
REASON, ATTEMPTS, ERROR = "x-busworker-reason", "x-busworker-attempts", "x-busworker-error"
DEAD_AT, WORKER = "x-busworker-dead-at", "x-busworker-worker"
LETTER_HEADERS = (REASON, ATTEMPTS, ERROR, DEAD_AT, WORKER)
OUR_HEADERS_LIMIT = 8 * 1024
"""Bytes that our headers on a dead letter may take; AMQP sends all headers in one frame."""
FRAME_ROOM = 126 * 1024
"""Bytes for all headers: RabbitMQ's default frame_max of 128 KiB, less the other properties. A copy whose headers need
more would make the broker close the connection, at every attempt to send it."""
_OVERHEAD = 512  # the topic, the replay generation, and what AMQP adds to each header
_HISTORY_ERROR = 1024  # bytes of an error in the history; the whole one was on the dead letter


class Target(msgspec.Struct, frozen=True):
    """Where a copy goes."""

    exchange: str
    routing_key: str


def retry_copy(
    delivery: Delivery, envelope: Envelope, attempt: int, target: Target, ready_at: int, *, alone: bool = False
) -> Outgoing:
    """The message with the number of its next attempt; `alone`: to be executed with nothing beside it.

    `ready_at` is when it may be, in milliseconds.
    """
    headers: Headers = {ATTEMPT: attempt, READY_AT: ready_at}
    if alone:
        headers[ALONE] = 1
    return _copy(delivery, envelope, target, headers)


def dead_copy(delivery: Delivery, envelope: Envelope, letter: Letter, target: Target) -> Outgoing:
    """The message with what is known of its end; all our headers together stay within 8 KiB."""
    headers: Headers = {
        ATTEMPT: envelope.attempt,
        REASON: letter.reason,
        ATTEMPTS: letter.attempts,
        DEAD_AT: letter.dead_at,
        WORKER: json_text(letter.worker),
    }
    if HISTORY in delivery.headers:
        headers[HISTORY] = _fitted_history(read_history(delivery.headers))
    taken = sum(len(name) + len(str(value).encode()) for name, value in headers.items())
    headers[ERROR] = fitted_error(letter.error, OUR_HEADERS_LIMIT - taken - _OVERHEAD)
    return _copy(delivery, envelope, target, headers)


def replay_copy(
    delivery: Delivery, envelope: Envelope, entry: dict[str, object], target: Target, ready_at: int
) -> Outgoing:
    """The message as if new (attempt 1, next generation), its death appended to the history.

    The oldest entries leave the history when it outgrows half of what our headers may take.
    """
    history = _fitted_history([*read_history(delivery.headers), entry])
    kept = {name: value for name, value in delivery.headers.items() if name not in LETTER_HEADERS}
    fresh = msgspec.structs.replace(delivery, headers=kept)
    headers: Headers = {ATTEMPT: 1, READY_AT: ready_at, REPLAY: envelope.replay + 1, HISTORY: history}
    return _copy(fresh, envelope, target, headers)


class Letter(msgspec.Struct, frozen=True):
    """Why a message is dead; `dead_at` is RFC 3339 UTC."""

    reason: str
    attempts: int
    dead_at: str
    error: Error
    worker: WorkerInfo


def read_history(headers: Headers) -> list[object]:
    """The earlier deaths of a message; unreadable ones count as none."""
    found = read_json(headers.get(HISTORY))
    return cast("list[object]", found) if isinstance(found, list) else []


def read_json(value: object) -> object:
    """The document in a header of ours; None if it is missing or unreadable."""
    if not isinstance(value, str | bytes):
        return None
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def fitted_error(error: Error, room: int) -> str:
    """The error as JSON in at most `room` bytes (512 at least): its texts are cut in the middle."""
    room = max(room, 512)
    fields = {"type": _fitted(error.type, 128), "message": _fitted(error.message, room // 3), "traceback": None}
    left = room - len(json_text(fields).encode())
    fields["traceback"] = _fitted(error.traceback, left) if error.traceback else None
    return json_text(fields)


def _fitted(text: str, room: int) -> str:
    """The text, cut so that it takes at most `room` bytes as JSON, where a character may take six."""
    limit = room
    while (size := len(json_text(part := cut(text, limit)).encode())) > room:
        limit = min(limit - 1, limit * room // size)
    return part


def _fitted_history(history: list[object]) -> str:
    """The history as JSON within half of what our headers may take: the latest entries, with short errors."""
    kept: list[object] = []
    room = OUR_HEADERS_LIMIT // 2
    for entry in reversed(history):
        short = _with_short_error(entry)
        room -= len(json_text(short).encode()) + 2
        if room < 0:
            break
        kept.append(short)
    return json_text(kept[::-1])


def _with_short_error(entry: object) -> object:
    if not isinstance(entry, dict):
        return entry
    death = cast("dict[str, object]", entry)
    error = death.get("error")
    if not isinstance(error, dict):
        return death
    texts = {name: as_text(value) for name, value in cast("dict[str, object]", error).items() if value is not None}
    shorter = Error(texts.get("type", ""), texts.get("message", ""), texts.get("traceback"))
    return {**death, "error": read_json(fitted_error(shorter, _HISTORY_ERROR))}


def cut(text: str, limit: int) -> str:
    """The text in at most `limit` characters; what is left out is in the middle."""
    if len(text) <= limit:
        return text
    mark = f"\n… {len(text) - limit} characters cut …\n"
    keep = limit - len(mark)
    if keep <= 0:
        return text[:limit]
    return text[: keep // 2] + mark + text[len(text) - (keep - keep // 2) :]


def _copy(delivery: Delivery, envelope: Envelope, target: Target, headers: Headers) -> Outgoing:
    properties = {name: delivery.properties[name] for name in KEPT_PROPERTIES if name in delivery.properties}
    properties["delivery_mode"] = PERSISTENT
    if envelope.id is not None:
        properties["message_id"] = envelope.id
    ours = {TOPIC: envelope.topic, **headers}
    theirs = {
        name: value
        for name, value in delivery.headers.items()
        if not (is_brokers(name) or name in ours or name == ALONE)
    }
    return Outgoing(target.exchange, target.routing_key, delivery.body, properties, _fitted_headers(theirs, ours))


def _fitted_headers(theirs: Headers, ours: Headers) -> Headers:
    """All headers that fit into one frame: of the publisher's, the largest are left out if need be."""
    room = FRAME_ROOM - wire_size(ours)
    sizes = {name: wire_size({name: value}) for name, value in theirs.items()}
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if sum(sizes.values()) <= room:
            break
        del sizes[name]
    return {name: theirs[name] for name in sizes} | ours


def wire_size(value: object) -> int:
    """At most the bytes that a header's value takes in AMQP (0-9-1, 4.2.5.5)."""
    match value:
        case str():
            return 5 + len(value.encode("utf-8", "surrogatepass"))
        case bytes():
            return 5 + len(value)
        case dict():
            items = cast("dict[object, object]", value).items()
            return 5 + sum(wire_size(name) + wire_size(part) for name, part in items)
        case list() | tuple():
            return 5 + sum(wire_size(part) for part in cast("list[object]", value))
        case _:
            return 9


def json_text(value: object) -> str:
    """A value as JSON, lone surrogates replaced."""
    # Surrogates come from undecodable bytes in tracebacks and paths; JSON can't carry them.
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(_clean(msgspec.to_builtins(value))).decode()


def _clean(value: object) -> object:
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, dict):
        return {as_text(name): _clean(part) for name, part in cast("dict[object, object]", value).items()}
    if isinstance(value, list):
        return [_clean(part) for part in cast("list[object]", value)]
    return value


__all__ = [
    "ATTEMPTS",
    "DEAD_AT",
    "ERROR",
    "OWN_PREFIX",
    "REASON",
    "WORKER",
    "Letter",
    "Target",
    "cut",
    "dead_copy",
    "fitted_error",
    "json_text",
    "read_history",
    "read_json",
    "replay_copy",
    "retry_copy",
    "wire_size",
]
