"""How fast many messages go, one batch after the other, and how many have gone."""

from __future__ import annotations

import time
from collections.abc import Callable

BATCH = 100
"""How many go at once, if nothing limits them."""
STEP = 0.1
"""Seconds between two batches, about, if a rate does; of one message each where that is slower."""


class Pace:
    """At most so many messages a second.

    Args:
        rate: messages a second, over 0; None: as fast as they can.

    Attributes:
        size: of a batch.
        done: how many have gone.
        due: the monotonic time from which on the next batch may go.
        told: gets `done` whenever it has changed.
    """

    def __init__(self, rate: float | None = None) -> None:
        self._rate = rate
        self.size = BATCH if rate is None else max(1, min(BATCH, int(rate * STEP)))
        self.done = 0
        self.due = 0.0
        self.told: Callable[[int], None] = lambda _: None

    @property
    def limited(self) -> bool:
        """Whether there is a rate."""
        return self._rate is not None

    def wait(self) -> None:
        """Sleeps until the next batch may go; what a signal handler raises ends that at once."""
        time.sleep(max(0.0, self.due - time.monotonic()))

    def went(self, number: int) -> None:
        """So many have gone just now. What was missed because they took longer isn't made up for."""
        self.done += number
        if self._rate is not None:
            self.due = max(self.due, time.monotonic() - STEP) + number / self._rate
        self.told(self.done)
