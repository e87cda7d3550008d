"""Waiting for a condition, never for time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL = 0.005
SPIN = 0.02
MOST_SLOWDOWN = 60.0


def wait_until(predicate: Callable[[], T | None], timeout: float, what: str | Callable[[], str]) -> T:
    """The first true value of `predicate`, which is called at least once, and once more when time is up.

    Raises:
        AssertionError: there was none within `timeout` seconds; it tells `what` was waited for (a callable is
            asked only then) and the last value.
    """
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() >= deadline
        value = predicate()
        if value:
            return value
        if late:
            told = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {timeout:g} s: {told}; last seen: {value!r}")
        time.sleep(POLL)


def slowdown() -> float:
    """How many times longer than alone on the machine a busy process takes now, at least 1.

    A bound that we promise for an idle machine holds for what a busy one leaves to a process.
    """
    began, worked = time.monotonic(), time.thread_time()
    while time.thread_time() < worked + SPIN:
        pass
    return min(MOST_SLOWDOWN, max(1.0, (time.monotonic() - began) / SPIN))
