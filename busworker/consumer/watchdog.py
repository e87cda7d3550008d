"""Notices a connection over which nothing comes any more although messages are ready. Pure; the consumer asks it.

A broker may forget a consumer: after a partition, by a bug, by an operator's hand. Nothing else would tell us.
"""

from __future__ import annotations

QUIET = 30.0
"""Seconds without a delivery, while there is room for some, after which we ask whether messages are ready."""
SURE = 2.0
"""Seconds after which a queue that was said to have some is asked again: they may have been under way."""


class Watchdog:
    """Counts the quiet; all times are monotonic seconds.

    Attributes:
        next_at: when to ask.
    """

    def __init__(self) -> None:
        self.next_at = float("inf")
        self._suspects = False

    def heard(self, now: float) -> None:
        """Something came, or there is no room for anything."""
        self.next_at = now + QUIET
        self._suspects = False

    def is_forgotten(self, ready: int, now: float) -> bool:
        """Whether the broker has forgotten us. Call it when it is time, with how many messages are ready."""
        if not ready:
            self.heard(now)
            return False
        forgotten, self._suspects = self._suspects, True
        self.next_at = now + SURE
        return forgotten
