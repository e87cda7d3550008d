"""Subscriptions in a broker: how they are, and removing one. Runs in the command's process, and in a start's probe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from busworker.broker import topology
from busworker.declaration import ServiceSpec
from busworker.errors import BrokerUnavailable
from busworker.message import BUS_EXCHANGE
from busworker.names import subscription_name, subscription_parts

if TYPE_CHECKING:
    from busworker.broker.session import Session


class Load(msgspec.Struct, frozen=True):
    """What a subscription's queues hold; None: there is no such queue, or it can't be told."""

    ready: int | None
    in_flight: int | None
    waiting: int | None
    dead: int | None
    consumers: int

    @property
    def exists(self) -> bool:
        """Whether messages are collected for it."""
        return self.ready is not None

    @property
    def held(self) -> int:
        """Messages that go with its queue."""
        return (self.ready or 0) + (self.in_flight or 0)


class Removed(msgspec.Struct, frozen=True):
    """How many messages, and how many dead letters, went with a subscription."""

    messages: int
    dead: int


def declared(spec: ServiceSpec) -> list[str]:
    """The subscriptions that a service declares."""
    return [
        subscription_name(subscription.topic, spec.name, channel.name)
        for channel in spec.channels
        for subscription in channel.subscriptions
    ]


def work_queue(name: str) -> str:
    """The queue of a subscription."""
    return f"{BUS_EXCHANGE}.{name}"


def dead_queue(name: str) -> str:
    """The queue of its dead letters."""
    return topology.dead_queue(work_queue(name))


def load(session: Session, name: str) -> Load:
    """How a subscription is now."""
    work = work_queue(name)
    counts, dead = session.counts(work), session.counts(dead_queue(name))
    return Load(
        None if counts is None else counts.ready,
        None if counts is None else counts.in_flight,
        session.waiting(work),
        None if dead is None else dead.ready,
        0 if counts is None else session.consumers(work),
    )


def orphaned(session: Session, spec: ServiceSpec) -> list[tuple[str, Load]]:
    """The subscriptions of a service that collect messages, and that neither it nor anybody else serves any more.

    Where the broker can't list its queues (AMQP), none is known.
    """
    known = {name for queue in session.queues() or [] if (name := topology.subscription_of(queue)) is not None}
    left = sorted(name for name in known.difference(declared(spec)) if subscription_parts(name)[1] == spec.name)
    loads = [(name, load(session, name)) for name in left]
    return [(name, load) for name, load in loads if load.exists and not load.consumers]


def orphan_line(name: str, load: Load) -> str:
    """What is to be said of one."""
    return (
        f"subscription {name} has no handler in its service any more, and its queue still collects messages "
        f"({load.ready:,} now): "
        f"busworker subscriptions remove '{name}'"
    )


def remove(session: Session, name: str, *, dead: bool) -> Removed | None:
    """Removes a subscription: nothing is collected for it from now on, and what its queue holds is gone.

    Its dead letters stay, unless there are none or `dead` says otherwise. The queue goes first: if this is interrupted,
    calling it again removes the rest.

    Returns:
        None: somebody consumes from its queue, and nothing was removed.

    Raises:
        BrokerUnavailable: also if somebody looks at the dead letters just now (AMQP); they stay, the queue is gone.
    """
    messages = session.delete(work_queue(name))
    if messages is None:
        return None
    counts = session.counts(dead_queue(name))
    if counts is None or (counts.ready and not dead):
        return Removed(messages, 0)
    letters = session.delete(dead_queue(name))
    if letters is None:
        raise BrokerUnavailable(f"another command looks at the dead letters of {name}, so they were left: try again")
    return Removed(messages, letters)


def lost(loads: Sequence[Load]) -> tuple[int, int, int | None]:
    """What these subscriptions hold in all: messages, dead letters, and those that wait (None: can't be told)."""
    waiting = [load.waiting for load in loads]
    known = [number for number in waiting if number is not None]
    return (
        sum(load.held for load in loads),
        sum(load.dead or 0 for load in loads),
        sum(known) if len(known) == len(waiting) else None,
    )
