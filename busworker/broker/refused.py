"""Settlements whose copies the broker didn't store, until they are tried again. Pure."""

from __future__ import annotations

from busworker.broker.session import Settled

PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the next try, by the number of those that were refused in a row."""


class Refused:
    """What a broker refused by a nack (a queue is full) or by a return (no queue takes it).

    Attributes:
        why: the last reason; None once all of it is stored.
        again_at: when to try again; monotonic seconds.
    """

    def __init__(self) -> None:
        self.why: str | None = None
        self.again_at = float("inf")
        self._items: list[Settled] = []
        self._trying: set[int] = set()
        self._tries = 0

    def add(self, item: Settled, why: str, now: float) -> None:
        """Something was refused."""
        self._items.append(item)
        self._trying.discard(item.tag)
        if self.again_at == float("inf"):
            self.again_at = now + PAUSES[min(self._tries, len(PAUSES) - 1)]
            self._tries += 1
        self.why = why

    def take(self, now: float) -> list[Settled]:
        """What is to be tried again now."""
        if now < self.again_at:
            return []
        items, self._items = self._items, []
        self.again_at = float("inf")
        self._trying.update(item.tag for item in items)
        return items

    def stored(self, item: Settled) -> None:
        """The broker has taken it; of most it never refused anything."""
        if self.why is not None and item.tag in self._trying:
            self._trying.discard(item.tag)
            if not self._trying and not self._items:
                self.why, self._tries = None, 0
