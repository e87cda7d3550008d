"""Where a message is, from what a store or a queue of dead letters holds of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

from busworker.broker import topology
from busworker.letters import Cause, read_letter
from busworker.message import Delivery, read_envelope, utc
from busworker.moments import rfc3339

State: TypeAlias = Literal["ready", "in_flight", "waiting", "delayed", "dead", "unrouted"]


class Holder(msgspec.Struct, frozen=True):
    """The worker that executes it, and since when."""

    service: str
    instance: str
    channel: str
    slot: int
    pid: int | None
    since: str | None


class Place(msgspec.Struct, frozen=True):
    """One place where it is, in the format of `--json` (docs/reference/cli.md).

    `attempt` is the one that executes or comes next, of a dead letter the last one; `until` is the end of the pause
    before a retry, or of a delay.
    """

    state: State
    subscription: str | None
    topic: str | None = None
    published_at: str | None = None
    attempt: int | None = None
    until: str | None = None
    dead_at: str | None = None
    reason: str | None = None
    error: Cause | None = None
    worker: Holder | None = None


def place(delivery: Delivery, *, held: bool = False, due: float | None = None) -> Place | None:
    """The place that a stored message is.

    Args:
        delivery: the message, with the queue that it is in.
        held: whether somebody holds it.
        due: when it leaves that queue by itself, as Unix time; None: it doesn't.

    Returns:
        None: the queue is none of a bus, or a tail's.
    """
    found, envelope = _state(delivery.queue, held=held), read_envelope(delivery)
    if found is None:
        return None
    # What waits has the name of its work queue as routing key.
    subscription = topology.subscription_of(delivery.routing_key if found == "waiting" else delivery.queue)
    letter = read_letter(delivery)
    one = Place(found, subscription, letter.topic, letter.published_at)
    match found:
        case "dead":
            fields = {"attempt": letter.attempts, "dead_at": letter.dead_at, "reason": letter.reason}
            return msgspec.structs.replace(one, **fields, error=letter.error)
        case "waiting" | "delayed":
            until = rfc3339(utc(due))
            attempt = envelope.attempt if found == "waiting" else None
            return msgspec.structs.replace(one, attempt=attempt, until=until)
        case "ready" | "in_flight":
            return msgspec.structs.replace(one, attempt=envelope.attempt)
        case "unrouted":
            return one


def executed(places: Iterable[Place], holders: Iterable[tuple[Holder, list[str]]]) -> list[Place]:
    """The places, with the workers that execute it.

    Args:
        places: where it lies.
        holders: each with the subscriptions of its channel. One that fits no place is a place of its own: on AMQP
            nobody sees what is held, and elsewhere it may just have moved.
    """
    left, found = list(holders), list[Place]()
    for one in places:
        fits = next((it for it in left if one.state in ("ready", "in_flight") and one.subscription in it[1]), None)
        if fits is not None:
            left.remove(fits)
            one = msgspec.structs.replace(one, state="in_flight", worker=fits[0])  # noqa: PLW2901
        found.append(one)
    for holder, subscriptions in left:
        found.append(Place("in_flight", subscriptions[0] if len(subscriptions) == 1 else None, worker=holder))
    return found


def _state(queue: str, *, held: bool) -> State | None:
    if queue == topology.UNROUTED:
        return "unrouted"
    if queue == topology.DELAYED:
        return "delayed"
    if queue.startswith(topology.RETRY):
        return "waiting"
    if topology.subscription_of(queue) is None:
        return None
    if queue.endswith(topology.DEAD_SUFFIX):
        return "dead"
    return "in_flight" if held else "ready"
