"""What a test left running in its own process."""

import os
import threading

import psutil

from tests.support.waiting import wait_until

PATIENCE = 2.0
"""Seconds for what is just ending."""
LASTING: set[int] = set()
"""Pids of children that are meant to outlive a test: who starts them for several tests adds them, and ends them."""


class Leftovers:
    """The threads and children that were not there when this object was made."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._children = set(_children())

    def check(self) -> None:
        """Fails with their names if there are some that don't end."""
        wait_until(lambda: not self._new(), PATIENCE, lambda: f"the end of what the test left: {self._new()}")

    def _new(self) -> list[str]:
        threads = [f"thread {thread.name}" for thread in threading.enumerate() if thread not in self._threads]
        return threads + [str(child) for child in _children() if child not in self._children]


def _children() -> list[psutil.Process]:
    try:
        # Mostly there are none, and the kernel says so at once; only then are all processes looked at.
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return []
    return [child for child in psutil.Process().children() if child.pid not in LASTING]
