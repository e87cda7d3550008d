"""How fast a channel goes, and what failed last: what `status` shows of a consumer besides its queues. Pure."""

from __future__ import annotations

from collections import deque

from busworker.ipc.frames import LastError

WINDOW = 10
"""Seconds over which the rate is told: short enough to be of now, long enough for a handler that takes a second."""


class Figures:
    """What a consumer has seen end.

    Args:
        now: monotonic seconds.

    Attributes:
        last_error: the last attempt that failed, or message that became a dead letter; None: there was none.
    """

    def __init__(self, now: float) -> None:
        self._since = now
        self._seconds: deque[tuple[int, int]] = deque()
        self.last_error: LastError | None = None

    def ended(self, count: int, now: float) -> None:
        """So many executions have ended now, however."""
        second = int(now)
        if self._seconds and self._seconds[-1][0] == second:
            count += self._seconds.pop()[1]
        self._seconds.append((second, count))
        self._forget(now)

    def rate(self, now: float) -> float:
        """Executions a second over the last `WINDOW` seconds, or over as many as there have been."""
        self._forget(now)
        span = min(max(now - self._since, 1.0), WINDOW)
        return sum(count for _, count in self._seconds) / span

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0][0] <= now - WINDOW - 1:
            self._seconds.popleft()
