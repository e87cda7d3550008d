"""The soft time limit: `TimeLimitExceeded` is raised in the handler by SIGALRM (setitimer(2)), or its task cancelled.

The alarm is armed for each message and disarmed after it, which takes less than a microsecond. One left armed would
fire into a later message, where it interrupts whatever C code sleeps or reads (EINTR, signal(7)).
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from busworker.errors import TimeLimitExceeded

SOON = 0.000001
"""Seconds; 0 would disarm."""


class SoftLimit:
    """The time limit of what runs now, in the main thread of a worker."""

    def __init__(self) -> None:
        self._running = False
        self._begun = self._due = 0.0
        signal.signal(signal.SIGALRM, self._fired)

    def start(self, seconds: float | None) -> None:
        """A message begins, whose limit is so many seconds away; None: there is none."""
        self._begun = time.monotonic()
        self.move(seconds)

    def move(self, seconds: float | None) -> None:
        """From now on the limit is so many seconds away."""
        self._running = seconds is not None
        self._due = time.monotonic() + (seconds or 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else max(seconds, SOON))

    def stop(self) -> None:
        """Nothing is limited any more."""
        self._running = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _fired(self, _signal: int, _frame: FrameType | None) -> None:
        # A signal that came just before `stop` is handled after it, and then concerns nothing.
        if not self._running:
            return
        now = time.monotonic()
        if now < self._due:  # somebody else's SIGALRM, or alarm(2) has taken the timer
            signal.setitimer(signal.ITIMER_REAL, max(self._due - now, SOON))
            return
        self._running = False
        raise TimeLimitExceeded(f"the handler had run for {now - self._begun:.1f} s when its time limit was over")


class AsyncLimit:
    """The time limit of one of several attempts in an event loop: its task is cancelled. Made in that task.

    Args:
        moved: called with the seconds from now at which the worker is killed if the attempt still runs.
    """

    def __init__(self, moved: Callable[[float], None]) -> None:
        self._moved = moved
        self._begun = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

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
        if not (self._over and isinstance(error, asyncio.CancelledError)):
            return None
        return f"the handler had run for {time.monotonic() - self._begun:.1f} s when its time limit was over"

    def _start(self, soft: float) -> None:
        self.stop()
        self._timer = self._loop.call_later(soft, self._fired)

    def _fired(self) -> None:
        self._over = True
        if self._task is not None:
            self._task.cancel()
