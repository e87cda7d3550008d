"""What a service manager such as systemd is told: that the service is ready, reloads, stops or lives. Pure.

The assignments are those of sd_notify(3).
"""

from __future__ import annotations

from typing import NamedTuple

EXTENSION = 30.0
"""Seconds that the manager is to grant, again and again, to a start that waits for its broker and to a drain."""
EXTEND_EVERY = 10.0
SHORTEST = 0.01
"""Seconds between two signs of life, however many the manager wants."""
STATUS_EVERY = 1.0
"""Seconds between two changes of the status: a worker that crashes all the time changes it each time."""


class Facts(NamedTuple):
    """How the service is.

    Attributes:
        ready: as `health ready` means it.
        reloading: new code is checked, or what runs is drained for it.
        stopping: it drains, not to start again.
        status: a line for people.
    """

    ready: bool
    reloading: bool
    stopping: bool
    status: str


class Notices:
    """Decides what is to be told; times are monotonic seconds.

    Args:
        watchdog: within how many seconds the manager wants to hear from us; None: it doesn't.

    Attributes:
        next_due: when to ask again at the latest.
    """

    def __init__(self, watchdog: float | None) -> None:
        self._pause = None if watchdog is None else max(watchdog / 2, SHORTEST)
        self._watchdog_at = 0.0
        self._extend_at = 0.0
        self._status_at = 0.0
        self._status = ""
        self._was_ready = False
        self._awaited = True
        self._stopping = False
        self.next_due = 0.0

    def reload(self, now: float) -> list[str]:
        """The new code is wanted. Whatever becomes of it, `READY=1` is to follow."""
        self._awaited = True
        return ["RELOADING=1", f"MONOTONIC_USEC={now * 1_000_000:.0f}"]

    def due(self, facts: Facts, now: float) -> list[str]:
        """What is to be told now, in one message; []: nothing."""
        told = self._changes(facts)
        if facts.status != self._status and (told or now >= self._status_at):
            self._status, self._status_at = facts.status, now + STATUS_EVERY
            told.append(f"STATUS={facts.status}")
        if (self._awaited or self._stopping) and now >= self._extend_at:
            self._extend_at = now + EXTEND_EVERY
            told.append(f"EXTEND_TIMEOUT_USEC={EXTENSION * 1_000_000:.0f}")
        if self._pause is not None and now >= self._watchdog_at:
            self._watchdog_at = now + self._pause
            told += self.alive()
        self.next_due = self._next_due(facts)
        return told

    def alive(self) -> list[str]:
        """That this process isn't stuck, for a manager that wants to hear it."""
        return [] if self._pause is None else ["WATCHDOG=1"]

    def _changes(self, facts: Facts) -> list[str]:
        if facts.stopping:
            told = [] if self._stopping else ["STOPPING=1"]
            self._stopping = True
            return told
        # Code that was refused, too: the old one runs on, and whoever waits for the reload must not wait for ever.
        if self._awaited and not facts.reloading and (facts.ready or self._was_ready):
            self._awaited, self._was_ready = False, True
            return ["READY=1"]
        return []

    def _next_due(self, facts: Facts) -> float:
        dues = [
            self._status_at if facts.status != self._status else None,
            self._extend_at if self._awaited or self._stopping else None,
            None if self._pause is None else self._watchdog_at,
        ]
        return min((due for due in dues if due is not None), default=float("inf"))
