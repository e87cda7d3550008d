"""What travels: the message a handler sees, the delivery a consumer holds, and what is handed to a broker. Pure.

The wire format is that of docs/reference/wire.md: any AMQP client can publish to us and subscribe beside us, so
everything read here may be missing or odd; what can't be read is ignored, never raised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TypeAlias, cast

import msgspec

HeaderValue: TypeAlias = object
Headers: TypeAlias = dict[str, HeaderValue]

BUS_EXCHANGE = "busworker"
"""Where events are published: a topic exchange, the routing key is the topic."""
DELAY_BITS = 28
LONGEST_DELAY = (1 << DELAY_BITS) - 1
"""Seconds for which a message can be held back: what kombu's native delayed delivery has bits for, eight years."""
ATTEMPT = "x-busworker-attempt"
TOPIC = "x-busworker-topic"
REPLAY = "x-busworker-replay"
ALONE = "x-busworker-alone"
READY_AT = "x-busworker-ready-at"
HISTORY = "x-busworker-history"
OWN_PREFIX = "x-busworker-"
KEY_BYTES = 16


class Outgoing(msgspec.Struct, array_like=True, gc=False):
    """A message on its way to the broker.

    `properties` are AMQP's by their names (without the headers); `exchange` and `routing_key` say where it goes, and
    `delay` after how many seconds it is to be routed there (None: now). `once`: the engine stores it only if it has
    stored none with this id to this topic lately.
    """

    exchange: str
    routing_key: str
    body: bytes
    properties: dict[str, object]
    headers: Headers
    delay: float | None = None
    once: bool = False

    @property
    def id(self) -> str:
        """Its message id."""
        return str(self.properties.get("message_id", ""))


class Delivery(msgspec.Struct, gc=False):
    """A message that the broker has handed to this consumer and that is not settled yet.

    `tag` names it to the session that delivered it. Bytes and properties are exactly those received. `damage` is what
    of the properties can't be read (None: nothing).
    """

    tag: int
    queue: str
    routing_key: str
    redelivered: bool
    properties: dict[str, object]
    headers: Headers
    body: bytes
    damage: str | None = None


class Envelope(msgspec.Struct, gc=False):
    """What our wire format says about a delivery; the defaults are those of a foreign message.

    `ready_at`: milliseconds of the Unix time from which it is to be handled, if that isn't what its id tells.
    `alone`: its worker crashed while it executed it beside others, so it has to be executed with nothing beside it.
    """

    id: str | None
    topic: str
    attempt: int
    replay: int
    published_at: int | None
    correlation_id: str | None
    alone: bool = False
    ready_at: int | None = None


class Message(msgspec.Struct, frozen=True):
    """The message of an event, as a handler sees it.

    Attributes:
        id: unique per published event; the same in every attempt and after a replay.
        topic: the topic it was published to.
        channel: the channel that handles it, as `service.channel`.
        attempt: the number of this execution, from 1.
        max_attempts: after this attempt a failure makes it a dead letter.
        published_at: UTC, whole seconds; None if the publisher didn't say.
        correlation_id: what the publisher gave, else None.
        headers: the publisher's own headers.
        body: the bytes as published.
    """

    id: str
    topic: str
    channel: str
    attempt: int
    max_attempts: int
    published_at: datetime | None
    correlation_id: str | None
    headers: Mapping[str, HeaderValue]
    body: bytes
    _extend: Callable[[float], None] | None = None

    def extend(self, seconds: float) -> None:
        """Moves the time limit of this attempt: it now ends `seconds` from now (both the soft and the hard one).

        Raises:
            RuntimeError: the message is not being handled (any more), or its subscription has no time limit.
        """
        if self._extend is None:
            raise RuntimeError("message.extend() works only while the message is handled under a time limit")
        self._extend(seconds)


def read_envelope(delivery: Delivery) -> Envelope:
    """Reads our envelope from whatever properties and headers a delivery has."""
    properties, headers = delivery.properties, delivery.headers
    return Envelope(
        id=_text(properties.get("message_id")),
        topic=_text(headers.get(TOPIC)) or _text(delivery.routing_key) or "",
        attempt=_count(headers.get(ATTEMPT), at_least=1),
        replay=_count(headers.get(REPLAY), at_least=0),
        published_at=_timestamp(properties.get("timestamp")),
        correlation_id=_text(properties.get("correlation_id")),
        alone=_count(headers.get(ALONE), at_least=0) > 0,
        ready_at=_timestamp(headers.get(READY_AT)),
    )


def key_of(delivery: Delivery, envelope: Envelope) -> bytes:
    """The digest by which a delivery is known again: of (queue, id, attempt, replay generation).

    Without an id it is of properties and body instead, so identical foreign messages are interchangeable.
    """
    if envelope.id is not None:
        name = f"{delivery.queue}\0{envelope.id}\0{envelope.attempt}\0{envelope.replay}"
        return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
    digest = blake2b(repr(sorted(delivery.properties.items(), key=str)).encode("utf-8", "replace"), digest_size=16)
    digest.update(f"\0{delivery.queue}\0{envelope.attempt}\0{envelope.replay}\0".encode("utf-8", "surrogatepass"))
    digest.update(delivery.body)
    return digest.digest()


def own_headers_removed(headers: Mapping[str, HeaderValue]) -> Headers:
    """The publisher's headers: without ours and without those that brokers add, as values that a frame can carry."""
    return {
        name: _portable(value)
        for raw, value in headers.items()
        if not ((name := as_text(raw)).startswith(OWN_PREFIX) or is_brokers(name))
    }


def is_brokers(header: str) -> bool:
    """Whether a header belongs to the broker (RabbitMQ: "Dead Letter Exchanges", "Sender-selected Distribution")."""
    return header in _BROKERS or as_text(header).startswith(("x-first-death-", "x-last-death-"))


_BROKERS = frozenset({"x-death", "x-delivery-count", "CC", "BCC"})


def utc(timestamp: float | None) -> datetime | None:
    """A Unix time as UTC; None for None and for what no calendar holds."""
    if timestamp is None:
        return None
    try:
        return datetime.fromtimestamp(timestamp, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def milliseconds(now: float) -> int:
    """A Unix time as `READY_AT` has it."""
    return int(now * 1000)


def as_text(value: object) -> str:
    """A value as text that UTF-8 can carry.

    py-amqp decodes strings with `surrogatepass`, and leaves names and values it can't decode as bytes.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str) and value.isascii():
        return value
    return str(value).encode("utf-8", "replace").decode()


def _portable(value: object) -> HeaderValue:
    """The value itself where MessagePack and JSON have such a one, else what comes nearest."""
    match value:
        case None | bool() | float() | bytes() | datetime():
            return value
        case int():
            return value if -(2**63) <= value < 2**63 else str(value)
        case dict():
            return {as_text(name): _portable(part) for name, part in cast("dict[object, object]", value).items()}
        case list() | tuple():
            return [_portable(part) for part in cast("list[object]", value)]
        case _:
            return as_text(value)


def _text(value: object) -> str | None:
    # Over 255 bytes it can't be a property or a routing key (AMQP 0-9-1, 4.2.5.3), so it is none of ours.
    text = as_text(value) if isinstance(value, str) else ""
    return text if 0 < len(text) <= 255 and (text.isascii() or len(text.encode()) <= 255) else None


def _count(value: object, *, at_least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value < 2**31:
        return at_least
    return value


def _timestamp(value: object) -> int | None:
    if isinstance(value, datetime):
        # py-amqp gives UTC without saying so.
        value = int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        return None
    return value
