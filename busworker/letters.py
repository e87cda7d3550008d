"""Dead letters as data: what a stored message says of its end, and which are meant. Pure.

Anybody can publish to our queues, so every header may be missing or odd; what can't be read is null.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import cast

import msgspec

from busworker.broker import topology
from busworker.copies import ATTEMPTS, DEAD_AT, ERROR, REASON, WORKER, read_history, read_json
from busworker.message import (
    BUS_EXCHANGE,
    Delivery,
    Envelope,
    as_text,
    own_headers_removed,
    read_envelope,
    utc,
)
from busworker.moments import rfc3339
from busworker.names import subscription_name, subscription_parts
from busworker.outcome import WorkerInfo
from busworker.settlement import REASONS

UNROUTED = "unrouted"
_SELECTOR = re.compile(r"(?:(?P<topic>[^/\s\ud800-\udfff]+)/)?(?P<service>[a-z0-9_-]+)(?:\.(?P<channel>[a-z0-9_-]+))?")


class Cause(msgspec.Struct, frozen=True):
    """What was raised, or how the process ended."""

    type: str | None
    message: str | None
    traceback: str | None


class DeadLetter(msgspec.Struct, frozen=True):
    """A dead letter in the format of `--json` (docs/reference/cli.md); also a message of the unrouted queue."""

    id: str | None
    subscription: str | None
    topic: str
    reason: str | None
    attempts: int
    published_at: str | None
    dead_at: str | None
    error: Cause | None
    worker: WorkerInfo | None
    headers: dict[str, object]
    body: object
    body_base64: str | None
    history: list[object]


class Filter(msgspec.Struct, frozen=True):
    """Which dead letters are meant; None and an empty set leave all.

    `before` is Unix time: only letters that died earlier, where that isn't known published earlier, fit.
    """

    ids: frozenset[str] = frozenset()
    reason: str | None = None
    before: float | None = None


class Selector(msgspec.Struct, frozen=True):
    """What people write for subscriptions: `[TOPIC/]SERVICE[.CHANNEL]`, or `unrouted`."""

    service: str
    topic: str | None = None
    channel: str | None = None

    @property
    def exact(self) -> bool:
        """Whether it names one queue, so that nothing needs to be listed to find it."""
        return self.service == UNROUTED or self.subscription is not None

    @property
    def subscription(self) -> str | None:
        """The one subscription that it names; None if it names none, or several."""
        if self.topic is None or self.channel is None:
            return None
        return subscription_name(self.topic, self.service, self.channel)

    def matches(self, subscription: str) -> bool:
        """Whether a subscription, `topic/service.channel`, is meant."""
        topic, service, channel = subscription_parts(subscription)
        return service == self.service and self.topic in (None, topic) and self.channel in (None, channel)


def parse_selector(text: str) -> Selector | None:
    """The selector a text can be; None if it can be none."""
    match = _SELECTOR.fullmatch(text)
    if match is None or (text != UNROUTED and match["service"] == UNROUTED):
        return None
    return Selector(match["service"], match["topic"], match["channel"])


def split(arguments: Sequence[str], known: Sequence[str]) -> tuple[Selector | None, tuple[str, ...]]:
    """The selector and the ids among the arguments of a command.

    Args:
        arguments: as they were written.
        known: the subscriptions there are.

    Returns:
        The first argument is the selector if it matches one of them, or is `unrouted`; all others are ids.
    """
    selector = parse_selector(arguments[0]) if arguments else None
    if selector is None or not (selector.service == UNROUTED or any(map(selector.matches, known))):
        return None, tuple(arguments)
    return selector, tuple(arguments[1:])


def queue_of(subscription: str) -> str:
    """The queue of a subscription's dead letters."""
    return topology.dead_queue(f"{BUS_EXCHANGE}.{subscription}")


def fits(letter: DeadLetter, wanted: Filter) -> bool:
    """Whether a letter is meant."""
    if wanted.ids and letter.id not in wanted.ids:
        return False
    if wanted.reason is not None and letter.reason != wanted.reason:
        return False
    return wanted.before is None or _died_before(letter, wanted.before)


def read_letter(delivery: Delivery, *, with_bytes: bool = False) -> DeadLetter:
    """What a stored message says.

    Args:
        delivery: from a queue of dead letters, or the unrouted one.
        with_bytes: whether `body_base64` is wanted; a body that is no JSON has it anyway.

    Guarantees:
        It raises nothing, whatever the message holds, and the letter can be written as JSON.
    """
    envelope = read_envelope(delivery)
    readable, body = _body(delivery.body)
    encoded = base64.b64encode(delivery.body).decode() if with_bytes or not readable else None
    return DeadLetter(
        id=envelope.id,
        subscription=topology.subscription_of(delivery.queue),
        topic=envelope.topic,
        reason=_reason(delivery),
        attempts=_attempts(delivery, envelope),
        published_at=rfc3339(utc(envelope.published_at)),
        dead_at=rfc3339(_dead_at(delivery)),
        error=_cause(read_json(delivery.headers.get(ERROR))),
        worker=_worker(read_json(delivery.headers.get(WORKER))),
        headers={name: _jsonable(value) for name, value in own_headers_removed(delivery.headers).items()},
        body=body,
        body_base64=encoded,
        history=read_history(delivery.headers),
    )


def history_entry(letter: DeadLetter, now: float) -> dict[str, object]:
    """What the history of a replayed message keeps of this death; `now` is Unix time."""
    return {
        "dead_at": letter.dead_at,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "error": msgspec.to_builtins(letter.error),
        "replayed_at": rfc3339(utc(now)),
    }


def _died_before(letter: DeadLetter, limit: float) -> bool:
    moment = _moment(letter.dead_at) or _moment(letter.published_at)
    return moment is not None and moment.timestamp() < limit


def _body(raw: bytes) -> tuple[bool, object]:
    try:
        return True, msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False, None


def _reason(delivery: Delivery) -> str | None:
    """Ours, or the broker's where it dead-lettered the message itself (RabbitMQ, "Dead Letter Exchanges")."""
    ours = delivery.headers.get(REASON)
    found = ours if isinstance(ours, str | bytes) else _death(delivery).get("reason")
    text = as_text(found) if isinstance(found, str | bytes) else None
    return text if text in REASONS else None


def _death(delivery: Delivery) -> Mapping[str, object]:
    """The latest entry of `x-death`; empty if a broker wrote none."""
    deaths = delivery.headers.get("x-death")
    entries = cast("list[object]", deaths) if isinstance(deaths, list) else []
    first = entries[0] if entries else None
    is_dead = topology.subscription_of(delivery.queue) is not None
    return cast("dict[str, object]", first) if is_dead and isinstance(first, dict) else {}


def _attempts(delivery: Delivery, envelope: Envelope) -> int:
    told = delivery.headers.get(ATTEMPTS)
    return told if type(told) is int and 0 <= told < 2**31 else envelope.attempt - 1


def _dead_at(delivery: Delivery) -> datetime | None:
    ours = delivery.headers.get(DEAD_AT)
    return _moment(ours if isinstance(ours, str) else _death(delivery).get("time"))


def _moment(value: object) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    try:
        # py-amqp gives UTC without saying so.
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except (OverflowError, ValueError):
        return None


def _cause(value: object) -> Cause | None:
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, object]", value)
    return Cause(*(_text(fields.get(name)) for name in ("type", "message", "traceback")))


def _worker(value: object) -> WorkerInfo | None:
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, object]", value)
    return WorkerInfo(
        host=_text(fields.get("host")),
        pid=_number(fields.get("pid")),
        signal=_text(fields.get("signal")),
        exit_code=_number(fields.get("exit_code")),
        rss=_number(fields.get("rss")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return value if type(value) is int else None


def _jsonable(value: object) -> object:
    """A header's value as JSON has it: bytes as text, a moment as RFC 3339."""
    match value:
        case bytes():
            return as_text(value)
        case datetime():
            return rfc3339(_moment(value))
        case dict():
            items = cast("dict[str, object]", value).items()
            return {name: _jsonable(part) for name, part in items}
        case list():
            return [_jsonable(part) for part in cast("list[object]", value)]
        case str():
            return as_text(value)
        case _:
            return value
