"""The values that go in and out of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from busworker.errors import ConfigurationError

Arguments = Mapping[str, object]


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A message to publish. `properties` is encoded by `codec`; `expiration` is in milliseconds.

    `once`: what tells it from others; if one with the same was stored lately, this isn't. Empty: it is.
    """

    exchange: str
    routing_key: str
    properties: bytes
    body: bytes
    expiration: int | None = None
    mandatory: bool = False
    priority: int = 0
    once: bytes = b""


class Delivery(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A message of a queue. `seq` is its name in the store and its place in the queue. A row of `DELIVERY`."""

    queue: str
    seq: int
    redelivered: bool
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes
    expires: int | None = None
    rank: int = 0


class Found(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A message that was looked for: as a `Delivery`, whether it is claimed, and when it expires."""

    queue: str
    seq: int
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes
    expires: int | None
    claimed: bool

    @property
    def delivery(self) -> Delivery:
        """As it would be delivered."""
        return Delivery(self.queue, self.seq, False, self.exchange, self.routing_key, self.properties, self.body)


DELIVERY = "?1, message.seq, redelivered, exchange, routing_key, properties, body, expires, ready.rank"
"""The columns of a `Delivery` in a query on `ready JOIN message`; the first parameter is the queue's name."""


def deliveries(rows: Sequence[tuple[object, ...]]) -> list[Delivery]:
    """Rows of the columns `DELIVERY`, checked."""
    return msgspec.convert(rows, list[Delivery], strict=False)


class Batch(msgspec.Struct):
    """What one transaction does: publishes, and settlements of claimed messages by `seq`."""

    publishes: list[Outgoing] = []
    acknowledged: list[int] = []
    requeued: list[int] = []
    rejected: list[int] = []


class QueueRecord(msgspec.Struct, frozen=True):
    """A queue as declared. `ttl` is in milliseconds; None means that the argument isn't there.

    `onlooker`: what reaches no other queue counts as unroutable; not in AMQP.
    """

    id: int
    name: str
    auto_delete: bool
    arguments: dict[str, object]
    ttl: int | None = None
    max_length: int | None = None
    dead_letter_exchange: str | None = None
    dead_letter_key: str | None = None
    max_priority: int = 0
    onlooker: bool = False

    def rank(self, priority: int) -> int:
        """Where a message comes in the queue: lower ranks first (RabbitMQ, "Classic Queues Support Priorities")."""
        return -min(max(priority, 0), self.max_priority)


def queue_record(number: int, name: str, auto_delete: bool, arguments: dict[str, object]) -> QueueRecord:
    """A queue from its name and arguments (RabbitMQ, "Time-To-Live", "Queue Length Limit", "Dead Letter Exchanges").

    Raises:
        ConfigurationError: an argument has a wrong type or is out of range.
    """
    return QueueRecord(
        number,
        name,
        auto_delete,
        arguments,
        ttl=_count(name, arguments, "x-message-ttl"),
        max_length=_count(name, arguments, "x-max-length"),
        dead_letter_exchange=_text(name, arguments, "x-dead-letter-exchange"),
        dead_letter_key=_text(name, arguments, "x-dead-letter-routing-key"),
        max_priority=_count(name, arguments, "x-max-priority", most=255) or 0,
        onlooker=arguments.get("x-busworker-onlooker") is True,
    )


def _count(queue: str, arguments: Arguments, key: str, most: int = 1 << 53) -> int | None:
    value = arguments.get(key)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most):
        return value
    raise ConfigurationError(f"queue {queue!r}: {key}={value!r} must be a whole number from 0 to {most}")


def _text(queue: str, arguments: Arguments, key: str) -> str | None:
    value = arguments.get(key)
    if value is None or isinstance(value, str):
        return value
    raise ConfigurationError(f"queue {queue!r}: {key}={value!r} must be a string")
