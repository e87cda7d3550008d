"""Steps on a connection that a command does whole, or not at all, when it is told to end."""

from __future__ import annotations

import threading
from types import TracebackType


class _Steps(threading.local):
    """Those of one thread. Signal handlers run in the main one (Python, `signal`), and so see its own."""

    depth = 0
    interruption: BaseException | None = None

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.depth -= 1
        if not self.depth and (interruption := self.interruption) is not None:
            self.interruption = None
            raise interruption


UNINTERRUPTED = _Steps()
"""`with UNINTERRUPTED`: what `interrupt` raises comes when it is over, not within.

A signal handler's exception is raised between any two instructions (Python, `signal`): what has just been read from the
socket would be lost, and what comes next made no sense. So nothing within may wait for more than some seconds. A signal
mask would not do: another thread, which an application's import has started, takes the signal then.
"""


def interrupt(error: BaseException) -> None:
    """For signal handlers: raises it now, or at the end of what must not be interrupted."""
    if not UNINTERRUPTED.depth:
        raise error
    UNINTERRUPTED.interruption = error
