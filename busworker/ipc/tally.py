"""What a pool counts for metrics, in memory that its processes share.

It is made before the first fork and anonymous (mmap(2): MAP_SHARED, MAP_ANONYMOUS), so it outlives every process but
the supervisor, and needs no file and no descriptor. Memory that nobody has touched costs nothing. Every field has eight
bytes, written by one aligned store, and one writer; a successor goes on where a dead one has stopped.

```
used            slots that have had a worker                                                      the supervisor
subscription    for each: what became of its messages (`FIELDS`)                                  the consumer
slot            for each subscription: a histogram of handler time, one of waiting time            the worker
```
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from typing import NamedTuple

from busworker.settlement import REASONS

MOST_SLOTS = 1001
"""A channel has up to 1,000 workers, and one more in a rolling restart."""
BOUNDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Upper bounds of the histograms' buckets, in seconds; the last bucket has none."""
RETRIED = ("exception", "time_limit", "memory_limit", "crash")
"""Why a message is retried."""
FIELDS = (
    "processed",
    "given_back",
    *(f"retried {reason}" for reason in RETRIED),
    *(f"dead {reason}" for reason in REASONS),
)

_FIELD = {name: number for number, name in enumerate(FIELDS)}
_BUCKETS = len(BOUNDS) + 1
_HISTOGRAM = _BUCKETS + 1  # and the sum
_BOTH = 2 * _HISTOGRAM
_USED, _FIRST = 0, 1


class Histogram(NamedTuple):
    """How many lay in each bucket (not cumulated), and the sum of all in seconds."""

    buckets: list[int]
    sum: float


class Tally:
    """One pool's counts.

    Args:
        subscriptions: how many the channel has; they are numbered in their order.
        slots: how many workers there can be.
    """

    def __init__(self, subscriptions: int, slots: int = MOST_SLOTS) -> None:
        self._subscriptions = subscriptions
        self._slots_at = _FIRST + subscriptions * len(FIELDS)
        memory = memoryview(mmap.mmap(-1, 8 * (self._slots_at + slots * subscriptions * _BOTH)))
        self._whole, self._real = memory.cast("Q"), memory.cast("d")

    def use(self, slot: int) -> None:
        """The supervisor: a worker has that slot."""
        self._whole[_USED] = max(self._whole[_USED], slot + 1)

    def count(self, subscription: int, field: str) -> None:
        """The consumer: one more message of which that came."""
        self._whole[_FIRST + subscription * len(FIELDS) + _FIELD[field]] += 1

    def measure(self, slot: int, subscription: int, took: float, waited: float | None) -> None:
        """The worker: a handler took so many seconds, for a message that had waited so many; None: nobody knows."""
        at = self._at(slot, subscription)
        self._add(at, took)
        if waited is not None:
            self._add(at + _HISTOGRAM, waited)

    def counted(self, subscription: int) -> dict[str, int]:
        """Anybody: what became of a subscription's messages, by `FIELDS`."""
        at = _FIRST + subscription * len(FIELDS)
        return dict(zip(FIELDS, self._whole[at : at + len(FIELDS)], strict=True))

    def handler_times(self, subscription: int) -> Histogram:
        """Anybody: the times that handlers took, of all slots."""
        return self._total(subscription, 0)

    def waiting_times(self, subscription: int) -> Histogram:
        """Anybody: the times that messages waited, of all slots."""
        return self._total(subscription, _HISTOGRAM)

    def _add(self, at: int, seconds: float) -> None:
        self._whole[at + bisect_left(BOUNDS, seconds)] += 1
        self._real[at + _BUCKETS] += seconds

    def _total(self, subscription: int, offset: int) -> Histogram:
        starts = [self._at(slot, subscription) + offset for slot in range(self._whole[_USED])]
        columns = zip(*(self._whole[at : at + _BUCKETS] for at in starts), strict=True)
        buckets = [sum(column) for column in columns] or [0] * _BUCKETS
        return Histogram(buckets, sum(self._real[at + _BUCKETS] for at in starts))

    def _at(self, slot: int, subscription: int) -> int:
        return self._slots_at + (slot * self._subscriptions + subscription) * _BOTH
