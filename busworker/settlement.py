"""The one decision of a message's life: what happens to it after an attempt. Pure.

The table is in docs/explanation/guarantees.md.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import msgspec

from busworker import outcome as how
from busworker.message import Outgoing
from busworker.retry import on_ladder

REASONS = (
    "exception",
    "rejected",
    "invalid",
    "time_limit",
    "memory_limit",
    "crash",
    "unhandled",
    "expired",
    "delivery_limit",
)
"""The words that dead letters have for why they died."""


class Policy(Protocol):
    """What settling needs of a `RetryPolicy`."""

    @property
    def max_attempts(self) -> int: ...

    def delay_after(self, attempt: int) -> float: ...


class Done(msgspec.Struct, frozen=True):
    """Acknowledge, together with what the handler published."""

    publishes: tuple[Outgoing, ...] = ()


class RetryIn(msgspec.Struct, frozen=True):
    """Put a copy with the next attempt's number into the retry queue of `delay` seconds (0: straight back)."""

    delay: int
    attempt: int


class Dead(msgspec.Struct, frozen=True):
    """Put a copy into the dead letters; `attempts` are the executions charged so far."""

    reason: str
    attempts: int
    error: how.Error


class GiveBack(msgspec.Struct, frozen=True):
    """Return the message unchanged and uncharged."""


Settlement: TypeAlias = Done | RetryIn | Dead | GiveBack


def settle(outcome: how.Outcome, attempt: int, policy: Policy) -> Settlement:
    """Decides what becomes of a message.

    Args:
        outcome: how the attempt ended.
        attempt: its number, 1-based; over `max_attempts` counts as the last.
        policy: the retry policy of the subscription.

    Guarantees:
        A charged outcome either is `Done` or `Dead`, or leads to the attempt `attempt + 1 <= max_attempts`, so no
        message is executed and charged more than `max_attempts` times.
    """
    match outcome:
        case how.Returned(publishes):
            return Done(publishes)
        case how.Raised(error, after):
            return _again(reason(outcome), error, attempt, policy, after)
        case how.TimedOut(error) | how.MemoryExceeded(error) | how.Crashed(error):
            return _again(reason(outcome), error, attempt, policy)
        case how.Rejected(error):
            return Dead(reason(outcome), attempt, error)
        case how.Invalid(error) | how.Unhandled(error) | how.Expired(error):
            return Dead(reason(outcome), attempt - 1, error)
        case how.Stopped():
            return GiveBack()


def reason(outcome: how.Failed) -> str:
    """Why it failed, in the word that dead letters have for it."""
    match outcome:
        case how.Raised():
            return "exception"
        case how.TimedOut():
            return "time_limit"
        case how.MemoryExceeded():
            return "memory_limit"
        case how.Crashed():
            return "crash"
        case how.Invalid():
            return "invalid"
        case how.Unhandled():
            return "unhandled"
        case how.Rejected(reason=told) | how.Expired(reason=told):
            return told


def charged(outcome: how.Outcome) -> bool:
    """Whether the outcome counts as an execution."""
    return not isinstance(outcome, _UNCHARGED)


_UNCHARGED = (how.Invalid, how.Unhandled, how.Expired, how.Stopped)


def _again(reason: str, error: how.Error, attempt: int, policy: Policy, after: float | None = None) -> RetryIn | Dead:
    if attempt >= policy.max_attempts:
        return Dead(reason, attempt, error)
    return RetryIn(on_ladder(policy.delay_after(attempt) if after is None else after), attempt + 1)
