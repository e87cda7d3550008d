"""When a failed message runs again: the policy an application declares, and the ladder of delays the bus offers."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from busworker.errors import ConfigurationError

MINUTE, HOUR = 60, 3600

LADDER = (
    1, 2, 5, 10, 30,
    1 * MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE,
    1 * HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, 24 * HOUR,
)  # fmt: skip
"""Seconds; one retry queue each, shared by the whole bus."""


def on_ladder(delay: float) -> int:
    """The step of the ladder that a delay waits.

    Args:
        delay: seconds, 0 or more.

    Returns:
        0 for 0 (straight back to the queue), else the smallest step that is not shorter, at most 24 hours.
    """
    if delay <= 0:
        return 0
    return LADDER[min(bisect_left(LADDER, delay), len(LADDER) - 1)]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a message is tried, and how long it waits in between.

    Args:
        max_attempts: executions in all, the first included; 1 or more.
        delays: seconds before the second, third, … attempt; the last one repeats. Each is rounded up to the
            ladder of retry queues (1, 2, 5, 10, 30 s, 1, 2, 5, 10, 30 min, 1, 2, 6, 12, 24 h); 0 is at once.
        dead_on: exception types that make a message a dead letter at once.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    max_attempts: int = 8
    delays: tuple[float, ...] = (1, 5, 30, 120, 600, 1800, 3600)
    dead_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "delays", tuple(self.delays))
        object.__setattr__(self, "dead_on", tuple(self.dead_on))
        # Types are checked too: a wrong one would show only when a message fails.
        if not _is_count(self.max_attempts):
            raise ConfigurationError(f"RetryPolicy(max_attempts={self.max_attempts!r}): give 1 or more")
        if not self.delays or not all(_is_delay(delay) for delay in self.delays):
            raise ConfigurationError(
                f"RetryPolicy(delays={self.delays!r}): give one or more delays from 0 to 86400 seconds"
            )
        if not all(_is_exception(kind) for kind in self.dead_on):
            raise ConfigurationError(f"RetryPolicy(dead_on={self.dead_on!r}): give exception types")

    def delay_after(self, attempt: int) -> float:
        """Seconds to wait after a failed attempt (1-based)."""
        return self.delays[min(attempt, len(self.delays)) - 1]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 1


def _is_delay(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 24 * HOUR


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)
