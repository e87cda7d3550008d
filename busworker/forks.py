"""A lock that a fork waits for, so that no child finds half done what another thread was doing under it. No I/O."""

from __future__ import annotations

import os
import threading


class OverForks:
    """Held by a thread while it changes something of the process for good; a fork waits until it is done.

    The same thread may take it again, and may fork. In the child it is free. Lives as long as the process.
    """

    def __init__(self) -> None:
        self._threads = threading.RLock()
        os.register_at_fork(before=self.__enter__, after_in_parent=self.__exit__, after_in_child=self._renew)

    def __enter__(self) -> None:
        self._threads.acquire()

    def __exit__(self, *_: object) -> None:
        self._threads.release()

    def _renew(self) -> None:
        # Not released: who forks without Python's doing, as uWSGI does, has not taken it.
        self._threads = threading.RLock()
