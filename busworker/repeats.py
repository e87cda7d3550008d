"""Which of many equal faults are told one by one, and which are only counted. Pure."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

import msgspec

WINDOW = 60.0
"""Seconds for which a fault is counted before that is told."""
BURST = 10
"""So many of a kind are told one by one first: the attempts of one message can be followed in the log."""
MOST = 256
"""Kinds that are known at a time."""

T = TypeVar("T")


class Again(NamedTuple, Generic[T]):
    """A fault came so many `times` within `seconds`, and none of these was told; `latest` is the last one."""

    times: int
    seconds: float
    latest: T


class _Fault(msgspec.Struct, Generic[T]):
    since: float
    told: int
    counted: int = 0
    latest: T | None = None

    def again(self, now: float) -> list[Again[T]]:
        """What was counted; []: nothing."""
        return [] if self.latest is None else [Again(self.counted, now - self.since, self.latest)]


class Repeats(Generic[T]):
    """Counts faults by kind.

    The first `BURST` of a kind are to be told as they come. Those after them are counted, and told once a `WINDOW`,
    until one goes by without any.

    Guarantees:
        Bounded: of more than `MOST` kinds at a time the one that has been known longest is forgotten, and what was
        counted of it comes out of `due`.
    """

    def __init__(self) -> None:
        self._faults: dict[str, _Fault[T]] = {}  # in the order of `since`
        self._forgotten: list[Again[T]] = []

    @property
    def next_due(self) -> float:
        """When `due` is to be called next; infinity: not before something is seen."""
        for fault in self._faults.values():
            return fault.since + WINDOW
        return float("inf")

    def seen(self, kind: str, latest: T, now: float) -> bool:
        """A fault has come; whether it is to be told now.

        Args:
            kind: what makes it equal to others.
            latest: what tells of it.
            now: monotonic seconds; `due` has been called with it.
        """
        fault = self._faults.get(kind)
        if fault is None:
            self._make_room(now)
            fault = self._faults[kind] = _Fault(now, 0)
        if fault.told < BURST:
            fault.told += 1
            return True
        fault.counted += 1
        fault.latest = latest
        return False

    def due(self, now: float) -> list[Again[T]]:
        """What was counted in the windows that are over at `now`."""
        told, self._forgotten = self._forgotten, []
        for kind in [kind for kind, fault in self._faults.items() if now >= fault.since + WINDOW]:
            again = self._faults.pop(kind).again(now)
            if again:
                told += again
                self._faults[kind] = _Fault(now, BURST)
        return told

    def rest(self, now: float) -> list[Again[T]]:
        """All that was counted and not told yet; then nothing is known any more."""
        told = [*self._forgotten, *(again for fault in self._faults.values() for again in fault.again(now))]
        self._faults, self._forgotten = {}, []
        return told

    def _make_room(self, now: float) -> None:
        if len(self._faults) >= MOST:
            self._forgotten += self._faults.pop(next(iter(self._faults))).again(now)
