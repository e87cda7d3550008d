"""The soft time limit: `TimeLimitExceeded` is raised in the handler by SIGALRM (setitimer(2)).

The alarm is armed for each message and disarmed after it, which takes less than a microsecond. One left armed would
fire into a later message, where it interrupts whatever C code sleeps or reads (EINTR, signal(7)).

The timer runs on while all of us are stopped (SIGSTOP, a container's freezer), and that time must not count. A process
can't tell how long it was stopped: the supervisor does, which was stopped as well. A timer that ticks would tell too,
but interrupts the handler's C code at each tick.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

from busworker.errors import TimeLimitExceeded

SOON = 0.000001
"""Seconds; 0 would disarm."""
AWAY = 1.25
"""Seconds since the supervisor's last turn after which it seems to be stopped. While something executes under a limit
it has a turn every 0.25 s, and before it knows of that every second."""
WAKING = 1.0
"""Seconds in which it has a turn if it was stopped together with us, and continued."""


class Look(NamedTuple):
    """What the supervisor tells: the monotonic time of its last turn, and how long all were stopped while the message
    was executing.
    """

    turned: float
    moved: float


class SoftLimit:
    """The time limit of what runs now, in the main thread of a worker.

    Args:
        look: what the supervisor tells now.
    """

    def __init__(self, look: Callable[[], Look]) -> None:
        self._running = self._waited = False
        self._until = self._moved = 0.0
        self._look = look
        signal.signal(signal.SIGALRM, self._fired)

    def start(self, seconds: float | None) -> None:
        """From now on the limit is so many seconds away; None: there is none. Calling again moves it."""
        self._running, self._waited = seconds is not None, False
        if seconds is not None:
            self._until, self._moved = time.monotonic() + seconds, self._look().moved
        signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else max(seconds, SOON))

    def stop(self) -> None:
        """Nothing is limited any more."""
        self._running = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _fired(self, _signal: int, _frame: FrameType | None) -> None:
        # A signal that came just before `stop` is handled after it, and then concerns nothing.
        if not self._running:
            return
        left = self._left(time.monotonic())
        if left > 0:
            signal.setitimer(signal.ITIMER_REAL, max(left, SOON))
            return
        self._running = False
        raise TimeLimitExceeded("the handler's time limit is over")

    def _left(self, now: float) -> float:
        """The seconds that the handler still has, because all were stopped or the supervisor must be asked later."""
        turned, moved = self._look()
        if moved > self._moved:
            self._until += moved - self._moved
            self._moved = moved
        elif now - turned > AWAY and not self._waited:  # once: if it alone is stopped, limits hold all the same
            self._waited = True
            return WAKING
        return self._until - now
