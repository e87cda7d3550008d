"""Who gets what: the messages a consumer holds, and which worker executes which. Pure.

A held message either waits, or was handed to one worker under a number that names its scoreboard entry. It leaves
when it is settled. After a lost connection it may be `lost`: still executing, but no longer ours to acknowledge until
the broker delivers it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from busworker.ipc import frames
from busworker.ipc.scoreboard import RING
from busworker.message import Delivery, Envelope, own_headers_removed
from busworker.outcome import Outcome

RUN_AHEAD_SECONDS = 0.004
"""Measured work that may wait in a worker's link: a frame in a link can't be called back."""
HOLD_SECONDS = 0.02
"""Measured work that may wait in the consumer, so that idle workers needn't wait for the broker."""
CROWDED_SECONDS = 1.0
"""For so long there must be too many before any are given back: a broker delivers ahead by what was the case."""
MOST_AHEAD = 64
MOST_LONELY = 1000
"""Messages that wait to be alone and take no room from the others; more would be held for nothing."""
SHORT = 0.001
"""Seconds of a handler below which a worker is handed more than one message."""
SMOOTHING = 0.1


class Held(msgspec.Struct, gc=False):
    """A message the consumer holds; `slot` and `number` are set while a worker has it.

    `alone`: nothing may be executed beside it.
    """

    delivery: Delivery
    envelope: Envelope
    key: bytes
    subscription: int
    slot: int = -1
    number: int = 0
    lost: bool = False
    outcome: Outcome | None = None
    alone: bool = False


class Worker(msgspec.Struct):
    """A worker as the dispatcher sees it: what it was handed and has not finished, by number, oldest first."""

    incarnation: int
    pid: int
    handed: dict[int, Held] = msgspec.field(default_factory=dict[int, Held])
    retiring: bool = False
    taken: bool = False
    """It executes a message that wants to be alone."""
    kept: bool = False
    """It is handed nothing until it is empty, because a message wants to be alone."""


class Dispatcher:
    """The messages and workers of one pool.

    Args:
        concurrency: how many messages each worker executes at a time.

    Attributes:
        crowded_until: monotonic seconds after which `surplus` has something.
    """

    def __init__(self, concurrency: int = 1) -> None:
        self.workers: dict[int, Worker] = {}
        self.waiting: deque[Held] = deque()
        self.lonely: deque[Held] = deque()
        self._concurrency = concurrency
        self._numbers: dict[int, int] = {}
        self._open: dict[int, dict[int, int]] = {}
        self._mean: float | None = None
        self.crowded_until = float("inf")

    # Workers

    def added(self, slot: int, incarnation: int, pid: int) -> None:
        """A new worker may be handed messages."""
        self.workers[slot] = Worker(incarnation, pid)

    def retire(self, slot: int, incarnation: int) -> None:
        """The worker gets nothing more."""
        worker = self.workers.get(slot)
        if worker is not None and worker.incarnation == incarnation:
            worker.retiring = True

    def retire_all(self) -> None:
        """No worker gets anything more."""
        for worker in self.workers.values():
            worker.retiring = True

    def removed(self, slot: int, incarnation: int) -> list[Held]:
        """The worker is gone; returns what it had been handed and not finished, oldest first."""
        worker = self.workers.get(slot)
        if worker is None or worker.incarnation != incarnation:
            return []
        del self.workers[slot]
        return list(worker.handed.values())

    def idle_retired(self) -> list[tuple[int, Worker]]:
        """Retiring workers that hold nothing any more."""
        return [(slot, worker) for slot, worker in self.workers.items() if worker.retiring and not worker.handed]

    # Messages

    def take_in(self, held: Held) -> None:
        """A message has arrived and waits."""
        self._queue(held).append(held)

    def wait_again(self, helds: Iterable[Held]) -> None:
        """Messages that only waited in a link go back to the front, in their order."""
        for held in reversed(list(helds)):
            held.slot, held.number = -1, 0
            self._queue(held).appendleft(held)

    def surplus(self, now: float) -> list[Held]:
        """What was delivered while handlers were short and would wait long now that they aren't: others may have it.

        Args:
            now: monotonic seconds.
        """
        if len(self.waiting) <= 2 * self.window:
            self.crowded_until = float("inf")
        elif self.crowded_until == float("inf"):
            self.crowded_until = now + CROWDED_SECONDS
        elif now >= self.crowded_until:
            self.crowded_until = float("inf")
            return [self.waiting.pop() for _ in range(len(self.waiting) - self.window)][::-1]
        return []

    def take_waiting(self) -> list[Held]:
        """All that waits; then nothing does."""
        found = [*self.lonely, *self.waiting]
        self.lonely.clear()
        self.waiting.clear()
        return found

    def assign(self) -> list[Held]:
        """Hands waiting messages to workers: first one to each idle worker, then ahead where handlers are short."""
        assigned: list[Held] = []
        if not self.waiting and not self.lonely:
            return assigned
        takers = [(slot, worker) for slot, worker in sorted(self.workers.items()) if not worker.retiring]
        if self._concurrency > 1:
            self._assign_lonely(takers, assigned)
            takers = [(slot, worker) for slot, worker in takers if not (worker.taken or worker.kept)]
        limit = max(self._concurrency, self.ahead)
        depth = min((len(worker.handed) for _, worker in takers), default=limit)
        while self.waiting and depth < limit:
            depth += 1
            for slot, worker in takers:
                if self.waiting and len(worker.handed) < depth and self._has_entry(slot):
                    assigned.append(self._hand(self.waiting.popleft(), slot, worker))
        return assigned

    def _assign_lonely(self, takers: list[tuple[int, Worker]], assigned: list[Held]) -> None:
        """Hands those that must be alone to empty workers; while one waits, a worker gets nothing until it's empty.

        One worker is left to the others, if there are two: they needn't wait until each of these has been alone.
        """
        room = max(1, len(takers) - 1) - sum(worker.taken for _, worker in takers)
        for _, worker in takers:
            worker.kept = False
        free = sorted((taker for taker in takers if not taker[1].taken), key=lambda taker: len(taker[1].handed))
        for slot, worker in free[: max(room, 0)]:
            if not self.lonely:
                return
            if worker.handed or not self._has_entry(slot):
                worker.kept = True
                return
            worker.taken = True
            assigned.append(self._hand(self.lonely.popleft(), slot, worker))

    def finished(self, slot: int, incarnation: int, number: int, seconds: float) -> Held | None:
        """A worker finished a message; None if it doesn't hold it (any more)."""
        worker = self.workers.get(slot)
        if worker is None or worker.incarnation != incarnation:
            return None
        held = worker.handed.pop(number, None)
        if held is not None:
            worker.taken = False
            self._measure(seconds)
        return held

    def entry_closed(self, held: Held) -> None:
        """The scoreboard entry of the message may be used again."""
        entries = self._open.get(held.slot, {})
        if entries.get(held.number % RING) == held.number:
            del entries[held.number % RING]

    # Figures

    @property
    def is_hungry(self) -> bool:
        """Whether a worker could execute one more at once, and nothing is here for it."""
        return not self.waiting and any(
            len(worker.handed) < self._concurrency and not (worker.retiring or worker.taken or worker.kept)
            for worker in self.workers.values()
        )

    def has_room(self, unsettled: int) -> bool:
        """Whether fetching is worth it: a worker lacks work, or half of the window is free: claims come in batches.

        Args:
            unsettled: how many messages the pool holds that aren't settled.
        """
        return self.window - unsettled >= (1 if self.is_hungry else max(1, self.window // 2))

    @property
    def holds(self) -> bool:
        """Whether messages wait."""
        return bool(self.waiting or self.lonely)

    @property
    def oldest(self) -> int | None:
        """When the message was published that has waited here longest; None: none waits, or it doesn't say."""
        times = [queue[0].envelope.published_at for queue in (self.waiting, self.lonely) if queue]
        return min((time for time in times if time is not None), default=None)

    @property
    def ahead(self) -> int:
        """How many messages a worker may have been handed at once."""
        if self._mean is None or self._mean >= SHORT:
            return 1
        return max(1, min(MOST_AHEAD, int(RUN_AHEAD_SECONDS / max(self._mean, 1e-6))))

    @property
    def window(self) -> int:
        """How many unsettled messages the pool may hold: what it works off in a few milliseconds, at least one each.

        Those that wait to be alone come on top, or nothing would be here for the worker that is left to the others; and
        those of workers that get nothing more, or those who take their places would wait for them.
        """
        hands = self._hands
        beside = min(len(self.lonely), MOST_LONELY) + self._left_to_retiring
        if self._mean is None or self._mean >= HOLD_SECONDS:
            return hands + beside
        return hands * max(1, min(4 * MOST_AHEAD, int(HOLD_SECONDS / max(self._mean, 1e-6)))) + beside

    @property
    def prefetch(self) -> int:
        """How many a broker that delivers by itself may deliver ahead of each queue: about a window.

        In steps of four, since a change costs the broker something.
        """
        hands = max(self._hands, 1)
        beside = len(self.lonely) + self._left_to_retiring
        steps = max(self.window - beside, hands) // hands
        fours = (steps.bit_length() - 1) // 2
        return (hands << 2 * fours) + (1 << beside.bit_length()) - 1

    @property
    def _hands(self) -> int:
        return self._concurrency * sum(1 for worker in self.workers.values() if not worker.retiring)

    @property
    def _left_to_retiring(self) -> int:
        return sum(len(worker.handed) for worker in self.workers.values() if worker.retiring)

    def _queue(self, held: Held) -> deque[Held]:
        return self.lonely if held.alone and self._concurrency > 1 else self.waiting

    def _hand(self, held: Held, slot: int, worker: Worker) -> Held:
        entries = self._open.setdefault(slot, {})
        number = self._numbers.get(slot, 0) + 1
        # The entry is number modulo ring, and not used again before its message is settled. One that takes long
        # keeps its entry while those of the others go round.
        while number % RING in entries:
            number += 1
        self._numbers[slot] = held.number = number
        held.slot = slot
        entries[number % RING] = number
        worker.handed[number] = held
        return held

    def _has_entry(self, slot: int) -> bool:
        return len(self._open.get(slot, ())) < RING

    def _measure(self, seconds: float) -> None:
        self._mean = seconds if self._mean is None else self._mean + SMOOTHING * (seconds - self._mean)


def handout(held: Held) -> frames.Handout:
    """What a worker is told of a message that it is to execute."""
    envelope, delivery = held.envelope, held.delivery
    return frames.Handout(
        number=held.number,
        subscription=held.subscription,
        key=held.key,
        id=envelope.id or "",
        topic=envelope.topic,
        attempt=envelope.attempt,
        published_at=envelope.published_at,
        correlation_id=envelope.correlation_id,
        headers=own_headers_removed(delivery.headers) if delivery.headers else {},  # which any frame can carry
        body=delivery.body,
        ready_at=envelope.ready_at,
    )
