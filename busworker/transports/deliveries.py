"""What a channel has been given: its consumers, what has arrived for them, and what isn't settled yet."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple

from amqp.exceptions import PreconditionFailed

from busworker.transports.consuming import Consumer, Prefetch, wanted
from busworker.transports.engine.records import Delivery
from busworker.transports.engine.store import Store


class Held(NamedTuple):
    """A claimed message; `consumer` is None if it was got or picked."""

    seq: int
    consumer: Consumer | None


class Deliveries:
    """A channel's deliveries. Each claimed message is in one of three places:

    `arrived` (nobody has seen it), `unacked` by its tag (handed out), or `settled` (in a transaction that isn't
    committed).
    """

    def __init__(self, store: Store) -> None:
        self.consumers: dict[str, Consumer] = {}
        self.arrived: deque[tuple[Consumer, Delivery]] = deque()
        self.unacked: dict[int, Held] = {}
        self.settled: dict[int, Held] = {}
        self.prefetch = Prefetch()
        self._store = store
        self._tags = itertools.count(1)

    def claim(self) -> None:
        """Claims what there is room for; the queue asked first this time is asked last the next."""
        room = self._room()
        queues = wanted(self.consumers.values(), self.prefetch) if room else []
        if not queues:
            return
        claimed = self._store.claim(queues, room)
        self._note_more(queues, Counter(delivery.queue for delivery in claimed), room)
        self._assign(claimed)
        first = next(iter(self.consumers))
        self.consumers[first] = self.consumers.pop(first)

    def has_more(self) -> bool:
        """Whether there may be something to deliver without anybody being woken."""
        if self.arrived:
            return True
        return bool(self._room()) and any(
            consumer.more and self.prefetch.room_of(consumer) for consumer in self.consumers.values()
        )

    def hand_out(self, delivery: Delivery, consumer: Consumer | None) -> int:
        """Notes that a message was handed out; returns its tag."""
        tag = next(self._tags)
        self.unacked[tag] = Held(delivery.seq, consumer)
        return tag

    def auto_acknowledge(self, consumer: Consumer | None) -> int:
        """The same for a message that needs no acknowledgement."""
        if consumer is not None:
            consumer.held -= 1
        return next(self._tags)

    def named(self, tag: int, *, multiple: bool) -> list[int]:
        """The unsettled tags that an acknowledgement means (AMQP 0-9-1, basic.ack).

        Raises:
            amqp.exceptions.PreconditionFailed: it means none.
        """
        if tag in self.unacked and not multiple:
            return [tag]
        tags = [held for held in self.unacked if held <= tag or not tag] if multiple else []
        if not tags and tag:
            raise PreconditionFailed(f"unknown delivery tag {tag}")
        return tags

    def settle_one(self, tag: int) -> int:
        """Moves one message from unacknowledged to settled; returns its `seq`.

        Raises:
            amqp.exceptions.PreconditionFailed: there is no such unsettled delivery.
        """
        held = self.unacked.pop(tag, None)
        if held is None:
            raise PreconditionFailed(f"unknown delivery tag {tag}")
        self.settled[tag] = held
        return held.seq

    def settle(self, tags: Iterable[int]) -> None:
        """Moves messages from unacknowledged to settled."""
        for tag in tags:
            self.settled[tag] = self.unacked.pop(tag)

    def commit(self) -> None:
        """Forgets what is settled: there is room for more."""
        for held in self.settled.values():
            if held.consumer is not None:
                held.consumer.held -= 1
        self.settled.clear()

    def rollback(self) -> None:
        """Makes what is settled unacknowledged again."""
        self.unacked = dict(sorted({**self.unacked, **self.settled}.items()))
        self.settled.clear()

    def take_arrived(self, consumer: Consumer) -> list[int]:
        """Takes back what has arrived for a consumer that is cancelled."""
        taken = [delivery.seq for other, delivery in self.arrived if other is consumer]
        self.arrived = deque(pair for pair in self.arrived if pair[0] is not consumer)
        return taken

    def all_seqs(self) -> list[int]:
        """Everything that is claimed."""
        handed_out = [held.seq for held in (*self.unacked.values(), *self.settled.values())]
        return handed_out + [delivery.seq for _, delivery in self.arrived]

    def _room(self) -> int:
        return self.prefetch.room(len(self.unacked) + len(self.settled) + len(self.arrived))

    def _note_more(self, queues: list[tuple[str, int]], got: Counter[str], room: int) -> None:
        full = got.total() >= room
        most = dict(queues)
        for consumer in self.consumers.values():
            if consumer.queue in most:
                consumer.more = full or got[consumer.queue] >= most[consumer.queue]

    def _assign(self, claimed: list[Delivery]) -> None:
        takers: dict[str, list[Consumer]] = {}
        for consumer in self.consumers.values():
            takers.setdefault(consumer.queue, []).append(consumer)
        for delivery in claimed:
            several = takers[delivery.queue]
            taker = several[0] if len(several) == 1 else min(several, key=_held)
            taker.held += 1
            self.arrived.append((taker, delivery))


def _held(consumer: Consumer) -> int:
    return consumer.held
