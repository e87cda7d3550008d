"""The soft time limit: `TimeLimitExceeded` is raised in the handler by SIGALRM (setitimer(2)).

The alarm is armed lazily: one that is due earlier than the current limit stays, and re-arms itself when it fires. So
a message under a long limit costs no system call.
"""

from __future__ import annotations

import signal
import time
from types import FrameType

from busworker.errors import TimeLimitExceeded


class SoftLimit:
    """The time limit of what runs now, in the main thread of a worker."""

    def __init__(self) -> None:
        self._deadline: float | None = None
        self._alarm_at: float | None = None
        signal.signal(signal.SIGALRM, self._fired)

    def start(self, seconds: float | None) -> None:
        """From now on the limit is so many seconds away; None: there is none. Calling again moves it."""
        self._deadline = None if seconds is None else time.monotonic() + seconds
        if self._deadline is not None and (self._alarm_at is None or self._alarm_at > self._deadline):
            self._arm(self._deadline)

    def stop(self) -> None:
        """Nothing is limited any more."""
        self._deadline = None

    def _arm(self, at: float) -> None:
        self._alarm_at = at
        signal.setitimer(signal.ITIMER_REAL, max(at - time.monotonic(), 0.001))

    def _fired(self, _signal: int, _frame: FrameType | None) -> None:
        self._alarm_at, deadline = None, self._deadline
        if deadline is None:
            return
        if time.monotonic() < deadline - 0.001:
            self._arm(deadline)
            return
        self._deadline = None
        raise TimeLimitExceeded("the handler's time limit is over")
