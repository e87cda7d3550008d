"""How many messages of a queue a look has delivered, and when. Pure."""

from __future__ import annotations

import math

FIRST = 16
"""How many are delivered before their size is known."""
GROWTH = 16
"""How many times as many as before may come at once: they are about as large as those before, but nobody promises."""
MOST_BYTES = 16 * 1024 * 1024
"""What the broker may have to hold for us at once, about: it reads all that it may deliver."""
PARTS = 30
"""A quorum queue takes back what consumers hold in the order of their names, while they are 32 at most (Erlang's maps
keep an order up to there)."""
MOST = 65_535
"""A prefetch has 16 bits (AMQP 0-9-1, basic.qos)."""


class Lookahead:
    """One look, from the head of a queue.

    A quorum queue puts what comes back behind what had come back before, and in front of what was never delivered
    (rabbit_fifo's `returns` and `messages`, read and tried on 3.10.8). So a look leaves the order as it is once a
    message was delivered for the first time, or all there are. With up to `PARTS * MOST` messages, that is.

    Args:
        there: how many messages there are.
        wanted: how many are to be seen; None: all.
    """

    def __init__(self, there: int, wanted: int | None) -> None:
        self.there = there
        self._wanted = there if wanted is None else min(wanted, there)
        self._whole = there > 0
        self._granted = self._came = self._bytes = self._parts = self._part = 0

    @property
    def more(self) -> bool:
        """Whether messages are still to come."""
        return self._came < self._reach

    @property
    def outstanding(self) -> int:
        """How many are on their way."""
        return self._granted - self._came

    def came(self, size: int, *, in_place: bool) -> None:
        """A message has arrived.

        Args:
            size: its bytes.
            in_place: whether it and those before it go back to where they were.
        """
        self._came += 1
        self._bytes += size
        if in_place:
            self._whole = False

    def enough(self) -> None:
        """Nothing more is wanted; what has to come for the order's sake does."""
        self._wanted = min(self._wanted, self._came)

    def end(self, rest: int) -> None:
        """Nothing more will come; `rest` are in the queue."""
        self.there = self._came + rest
        self._wanted, self._whole = self._came, False

    def grant(self) -> int:
        """How many more the broker is to deliver now; 0: it has enough to do, or there is nothing more to come."""
        if 2 * self.outstanding > self._part:
            return 0
        self._part = min(self._size(), max(0, self._reach - self._granted), MOST)
        self._granted += self._part
        self._parts += self._part > 0
        return self._part

    @property
    def _reach(self) -> int:
        return self.there if self._whole else self._wanted

    def _size(self) -> int:
        if not self._granted:
            return FIRST
        wanted = min(
            MOST_BYTES * self._came // max(self._bytes, 1), self._granted * GROWTH, self._wanted - self._granted
        )
        return max(wanted, self._fewest(), 1)

    def _fewest(self) -> int:
        """Few, since what is delivered for the order's sake has to be each time after; enough for the parts to do."""
        left, parts = self.there - self._granted, max(PARTS - self._parts, 1)
        factor = math.pow(self.there / self._granted, 1 / parts)
        return max(math.ceil(self._granted * (factor - 1)), left - (parts - 1) * MOST)
