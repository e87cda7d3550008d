"""The soft time limit: `TimeLimitExceeded` is raised in the handler by SIGALRM (setitimer(2)), or its task cancelled.

The alarm is armed for each message and disarmed after it, which takes less than a microsecond. One left armed would
fire into a later message, where it interrupts whatever C code sleeps or reads (EINTR, signal(7)).

The timer runs on while all of us are stopped (SIGSTOP, a container's freezer), and that time must not count. A process
can't tell how long it was stopped: the supervisor does, which was stopped as well. A timer that ticks would tell too,
but interrupts the handler's C code at each tick.
"""

from __future__ import annotations

import asyncio
import signal
import threading
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
ASKING = 0.05
"""Seconds between two questions meanwhile: the soft limit is to come before the hard one, which may be near."""


class Look(NamedTuple):
    """What the supervisor tells: the monotonic time of its last turn, and how long it was away in all."""

    turned: float
    away: float


class Remaining:
    """The time that an attempt still has, in which none counts that all of us were stopped.

    Args:
        look: what the supervisor tells now.
        seconds: the limit, from now on.
    """

    def __init__(self, look: Callable[[], Look], seconds: float) -> None:
        self._look = look
        self._until = time.monotonic() + seconds
        self._away = look().away
        self._asks_until: float | None = None

    def seconds(self) -> float:
        """What is left, or in how many seconds to ask again, because the supervisor hasn't looked yet."""
        now = time.monotonic()
        turned, away = self._look()
        if away > self._away:
            self._until += away - self._away
            self._away = away
        elif now - turned > AWAY and self._may_ask(now):
            return ASKING
        return self._until - now

    def _may_ask(self, now: float) -> bool:
        if self._asks_until is None:  # once: if it alone is stopped, limits hold all the same
            self._asks_until = now + WAKING
        return now < self._asks_until


class SoftLimit:
    """The time limit of what runs now, in the main thread of a worker.

    Args:
        look: what the supervisor tells now.
    """

    def __init__(self, look: Callable[[], Look]) -> None:
        self._look = look
        self._begun = 0.0
        self._remaining: Remaining | None = None
        signal.signal(signal.SIGALRM, self._fired)

    def start(self, seconds: float | None) -> None:
        """A message begins, whose limit is so many seconds away; None: there is none."""
        self._begun = time.monotonic()
        self.move(seconds)

    def move(self, seconds: float | None) -> None:
        """From now on the limit is so many seconds away."""
        self._remaining = None if seconds is None else Remaining(self._look, seconds)
        signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else max(seconds, SOON))

    def stop(self) -> None:
        """Nothing is limited any more."""
        self._remaining = None
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _fired(self, _signal: int, _frame: FrameType | None) -> None:
        # A signal that came just before `stop` is handled after it, and then concerns nothing.
        if self._remaining is None:
            return
        left = self._remaining.seconds()
        if left > 0:  # also at somebody else's SIGALRM, or when alarm(2) has taken the timer
            signal.setitimer(signal.ITIMER_REAL, max(left, SOON))
            return
        self._remaining = None
        raise TimeLimitExceeded(_over(self._begun))


class AsyncLimit:
    """The time limit of one of several attempts in an event loop: its task is cancelled. Made in that task.

    Args:
        look: what the supervisor tells now.
        moved: called with the seconds from now at which the worker is killed if the attempt still runs.
    """

    def __init__(self, look: Callable[[], Look], moved: Callable[[float], None]) -> None:
        self._look = look
        self._moved = moved
        self._begun = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._remaining = Remaining(look, 0.0)
        self._is_over = False

    def move(self, soft: float, hard: float) -> None:
        """From now on the limit is `soft` seconds away; in any thread."""
        self._moved(hard)
        if threading.current_thread() is threading.main_thread():
            self._start(soft)
        else:
            self._loop.call_soon_threadsafe(self._start, soft)

    def stop(self) -> None:
        """Nothing is limited any more."""
        if self._timer is not None:
            self._timer.cancel()

    def told(self, error: BaseException) -> str | None:
        """What to tell of the limit, if what the handler raised is its doing."""
        return _over(self._begun) if self._is_over and isinstance(error, asyncio.CancelledError) else None

    def _start(self, soft: float) -> None:
        self.stop()
        self._remaining = Remaining(self._look, soft)
        self._timer = self._loop.call_later(soft, self._fired)

    def _fired(self) -> None:
        left = self._remaining.seconds()
        if left > 0:
            self._timer = self._loop.call_later(left, self._fired)
        elif self._task is not None:
            self._is_over = True
            self._task.cancel()


def _over(begun: float) -> str:
    return f"the handler had run for {time.monotonic() - begun:.1f} s when its time limit was over"
