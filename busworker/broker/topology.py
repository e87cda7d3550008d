"""The names and arguments of every exchange and queue of the bus, and nothing else. Pure.

Publishers and consumers declare the same topology, each time they connect; declaring is idempotent. A changed
argument needs a new name, because a broker refuses to redeclare with other arguments (AMQP 0-9-1, 406).
"""

from __future__ import annotations

import math
import re

import msgspec

from busworker.copies import Target
from busworker.message import BUS_EXCHANGE, DELAY_BITS
from busworker.names import SPOOL_QUEUE, subscription_name
from busworker.retry import LADDER

EXCHANGE = BUS_EXCHANGE
UNROUTED = "busworker.unrouted"
BACK = "busworker.back"
RETRY = "busworker.retry."
DELAYED = "busworker.delayed"
DUE = "busworker.due"
DELAY_PREFIX = "busworker"
"""Of kombu's names for the queues of native delayed delivery."""
UNROUTED_LIMIT = 100_000
DEAD_SUFFIX = "/dead"
SPOOL = SPOOL_QUEUE
SPOOL_ASIDE = f"{SPOOL}.aside"
"""What of a spool can't be sent, whatever the broker."""
LOOK_SUFFIX = ".look"
LOOK_MOST = 3600
"""Seconds after which a look counts as over: RabbitMQ doesn't notice that a machine has vanished in the middle of one,
and would keep an exclusive queue until its connection ends."""
TAIL = "busworker.tail."
TAIL_MOST = 1000
TAIL_BYTES = 64 * 1024 * 1024
"""What is kept for a tail that reads too slowly, or not at all; the oldest goes (bytes on AMQP only)."""
_UNROUTED_ELSE: dict[str, object] = {"alternate-exchange": UNROUTED}


class Exchange(msgspec.Struct, frozen=True):
    """An exchange to declare, and its bindings to other exchanges as (exchange, routing key)."""

    name: str
    type: str
    arguments: dict[str, object] = {}
    bindings: tuple[tuple[str, str], ...] = ()


class Queue(msgspec.Struct, frozen=True):
    """A queue to declare, and its bindings as (exchange, routing key)."""

    name: str
    arguments: dict[str, object] = {}
    bindings: tuple[tuple[str, str], ...] = ()


class Flavour(msgspec.Struct, frozen=True):
    """What differs between brokers.

    `queue_type` is None on the embedded engine; `unlimited_delivery` says that the broker knows a delivery limit of
    -1 (RabbitMQ from 4 on; 3.10 drops a message at its first return when given -1).
    """

    queue_type: str | None = None
    unlimited_delivery: bool = False


EMBEDDED = Flavour()


def flavour(queue_type: str | None, version: str) -> Flavour:
    """That of a RabbitMQ of this version, such as `3.10.8`."""
    major = version.split(".", 1)[0]
    return Flavour(queue_type, unlimited_delivery=major.isdigit() and int(major) >= 4)


def work_queue(topic: str, service: str, channel: str) -> str:
    """The queue of a subscription."""
    return f"{EXCHANGE}.{subscription_name(topic, service, channel)}"


def dead_queue(work: str) -> str:
    """The queue of the dead letters of a work queue."""
    return work + DEAD_SUFFIX


def look(queue: str) -> Queue:
    """What whoever looks at a queue on AMQP holds meanwhile, exclusively.

    Its name fits what a service may declare (docs/how-to/rabbitmq.md), and is no subscription's: a channel has no dot.
    """
    work, dead, _ = queue.partition(DEAD_SUFFIX)
    return Queue(f"{work}{LOOK_SUFFIX}{dead}", {"x-queue-type": "classic", "x-expires": LOOK_MOST * 1000})


def tail(name: str, topic: str, flavour: Flavour) -> Queue:
    """What somebody listens through to what is published, exclusively; `topic` may be a pattern.

    On the engine it is an onlooker: what reaches nothing else is unrouted all the same. RabbitMQ has no such queues.
    """
    limits: dict[str, object] = {"x-max-length": TAIL_MOST}
    if flavour.queue_type is None:
        limits["x-busworker-onlooker"] = True
    else:
        limits |= {"x-queue-type": "classic", "x-max-length-bytes": TAIL_BYTES}
    return Queue(f"{TAIL}{name}", limits, ((EXCHANGE, topic), *_due(topic, flavour)))


def subscription_of(queue: str) -> str | None:
    """The subscription of a work or dead queue; None for any other queue."""
    match = _WORK.fullmatch(queue)
    return match[1] if match else None


_WORK = re.compile(r"busworker\.([^/]+/[a-z0-9_-]+\.[a-z0-9_-]+)(/dead)?")


def retry_target(delay: int, work: str) -> Target:
    """Where a retry copy goes: the ladder's queue, or for a delay of 0 straight back to the work queue."""
    return Target(f"{RETRY}{delay}" if delay else BACK, work)


def dead_target(work: str) -> Target:
    """Where a dead letter goes: through the default exchange, which knows every queue by its name."""
    return Target("", dead_queue(work))


def base(flavour: Flavour) -> tuple[list[Exchange], list[Queue]]:
    """What every publisher and consumer needs; alternate exchanges come before those that name them."""
    exchanges = [
        Exchange(UNROUTED, "fanout"),
        Exchange(EXCHANGE, "topic", _UNROUTED_ELSE),
        Exchange(BACK, "direct", _UNROUTED_ELSE),
    ]
    if flavour.queue_type is not None:
        exchanges.append(Exchange(DUE, "topic", _UNROUTED_ELSE))
    unrouted = {"x-max-length": UNROUTED_LIMIT, "x-overflow": "drop-head", **_always_quorum(flavour)}
    queues = [Queue(UNROUTED, unrouted, ((UNROUTED, ""),))]
    return exchanges, queues


def delayed() -> tuple[Exchange, Queue]:
    """Where `publish(delay=)` waits on the engine: each message expires at its own time, then is routed anew."""
    return (
        Exchange(DELAYED, "fanout"),
        Queue(DELAYED, {"x-dead-letter-exchange": EXCHANGE}, ((DELAYED, ""),)),
    )


def delays() -> tuple[list[Exchange], list[Queue]]:
    """Where `publish(delay=)` waits on AMQP: exactly what kombu's native delayed delivery declares, and the way on.

    Level n is an exchange, and a queue with a time to live of 2^n seconds that dead-letters to the exchange below. The
    bit of that level, a word of the routing key, says whether a message goes there at once or through the queue.
    kombu's own function would do, but for the AMQP channel that it leaves open each time.
    """
    levels = range(DELAY_BITS - 1, -1, -1)
    names = {level: f"{DELAY_PREFIX}_celery_delayed_{level}" for level in levels}
    below = names | {-1: f"{DELAY_PREFIX}_celery_delayed_delivery"}
    exchanges = [Exchange(names[DELAY_BITS - 1], "topic")]
    exchanges += [Exchange(below[level - 1], "topic", {}, ((names[level], _bit(level, 0)),)) for level in levels]
    exchanges.append(Exchange(DUE, "topic", _UNROUTED_ELSE, ((below[-1], "#"),)))
    queues = [
        Queue(name, _waiting(2**level * 1000, below[level - 1]), ((name, _bit(level, 1)),))
        for level, name in names.items()
    ]
    return exchanges, queues


def work(topic: str, service: str, channel: str, flavour: Flavour) -> list[Queue]:
    """The queues of one subscription: its dead letters first, since the work queue points to them."""
    name = work_queue(topic, service, channel)
    arguments = {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead_queue(name),
        **_typed(flavour),
        **_at_least_once(flavour, flavour.queue_type),
    }
    return [
        dead(name, flavour),
        Queue(name, arguments, ((EXCHANGE, topic), (BACK, name), *_due(topic, flavour))),
    ]


def dead(work: str, flavour: Flavour) -> Queue:
    """The queue of a work queue's dead letters."""
    return Queue(dead_queue(work), _typed(flavour))


def retry(delay: int, flavour: Flavour) -> tuple[Exchange, Queue]:
    """The shared retry queue of one step of the ladder.

    Its fanout exchange keeps the work queue's name as routing key; `busworker.back` routes by it afterwards.
    """
    if delay not in LADDER:
        raise ValueError(f"{delay} s is no step of the ladder")
    name = f"{RETRY}{delay}"
    arguments: dict[str, object] = {
        "x-message-ttl": delay * 1000,
        "x-dead-letter-exchange": BACK,
        **_always_quorum(flavour),
        **_at_least_once(flavour, "quorum"),
    }
    return Exchange(name, "fanout"), Queue(name, arguments, ((name, ""),))


def spool() -> tuple[Queue, ...]:
    """The queues of a spool, which is a store of its own and no bus."""
    return Queue(SPOOL), Queue(SPOOL_ASIDE)


def retry_queues() -> list[str]:
    """The names of all retry queues there can be."""
    return [f"{RETRY}{delay}" for delay in LADDER]


def delayed_target(seconds: float, topic: str) -> Target:
    """Where a message goes on AMQP that is to be routed so many seconds from now, rounded up to whole ones.

    The routing key has a word for each bit of the delay, then the topic. For each bit that is set the message waits in
    one queue, from the highest on; what is above needn't be passed.

    Args:
        seconds: over 0, and at most `LONGEST_DELAY`.
        topic: by which it is routed then.
    """
    whole = math.ceil(seconds)
    bits = ".".join(f"{whole:0{DELAY_BITS}b}")
    return Target(f"{DELAY_PREFIX}_celery_delayed_{whole.bit_length() - 1}", f"{bits}.{topic}")


def _bit(level: int, value: int) -> str:
    """The routing keys in which the word that stands for a level has a value."""
    return "*." * (DELAY_BITS - 1 - level) + f"{value}.#"


def _waiting(milliseconds: int, then: str) -> dict[str, object]:
    ends: dict[str, object] = {"x-message-ttl": milliseconds, "x-dead-letter-exchange": then}
    return {"x-queue-type": "quorum", **ends, **_AT_LEAST_ONCE}


def _due(topic: str, flavour: Flavour) -> tuple[tuple[str, str], ...]:
    # A star for each bit: with # a message for a.b would reach a subscription of b.
    return () if flavour.queue_type is None else ((DUE, "*." * DELAY_BITS + topic),)


def _always_quorum(flavour: Flavour) -> dict[str, object]:
    return {"x-queue-type": "quorum"} if flavour.queue_type else {}


def _typed(flavour: Flavour) -> dict[str, object]:
    if flavour.queue_type is None:
        return {}
    limit = {"x-delivery-limit": -1} if flavour.queue_type == "quorum" and flavour.unlimited_delivery else {}
    return {"x-queue-type": flavour.queue_type, **limit}


def _at_least_once(flavour: Flavour, queue_type: str | None) -> dict[str, object]:
    # Classic queues refuse x-dead-letter-strategy (tried on 3.10); the engine dead-letters in one transaction anyway.
    if flavour.queue_type is None or queue_type != "quorum":
        return {}
    return _AT_LEAST_ONCE


_AT_LEAST_ONCE: dict[str, object] = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
