"""How an attempt ended: a closed set of types, handled case by case with an exhaustive `match`.

The worker makes `Returned`, `Raised`, `Rejected`, `TimedOut`, `Invalid` and `Unhandled`; the consumer makes the
others, from what the supervisor tells about a death or from the message itself.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from busworker.message import Outgoing


class Error(msgspec.Struct, frozen=True, array_like=True):
    """What a dead letter tells of the cause; every text is bounded by who makes it."""

    type: str
    message: str
    traceback: str | None = None


class Returned(msgspec.Struct, frozen=True, array_like=True, tag="returned", gc=False):
    """The handler returned; what it published goes out with the acknowledgement."""

    publishes: tuple[Outgoing, ...] = ()


class Raised(msgspec.Struct, frozen=True, array_like=True, tag="raised"):
    """The handler raised something, `Retry` and `SystemExit` included; `after` is the delay it asked for."""

    error: Error
    after: float | None = None


class Rejected(msgspec.Struct, frozen=True, array_like=True, tag="rejected"):
    """The handler raised `Reject` (reason `rejected`) or a type of `dead_on` (reason `exception`)."""

    error: Error
    reason: str = "rejected"


class TimedOut(msgspec.Struct, frozen=True, array_like=True, tag="timed_out"):
    """The soft limit's exception left the handler, or the supervisor killed the worker at the hard limit."""

    error: Error


class MemoryExceeded(msgspec.Struct, frozen=True, array_like=True, tag="memory"):
    """The supervisor killed the worker because its resident memory was over the channel's limit."""

    error: Error


class Crashed(msgspec.Struct, frozen=True, array_like=True, tag="crashed"):
    """The worker's process ended while it executed the message, or everything that held the message died."""

    error: Error


class Invalid(msgspec.Struct, frozen=True, array_like=True, tag="invalid"):
    """The payload doesn't fit the topic's type; the handler was not run."""

    error: Error


class Unhandled(msgspec.Struct, frozen=True, array_like=True, tag="unhandled"):
    """The message's topic is not one that its queue serves; the handler was not run."""

    error: Error


class Expired(msgspec.Struct, frozen=True, array_like=True, tag="expired"):
    """The broker dead-lettered the message (`expired`, `delivery_limit`); `reason` says which."""

    error: Error
    reason: str = "expired"


class Stopped(msgspec.Struct, frozen=True, array_like=True, tag="stopped"):
    """We stopped it ourselves (drain, scale down, restart), or it only waited: nothing is charged."""


Failed: TypeAlias = Raised | Rejected | TimedOut | MemoryExceeded | Crashed | Invalid | Unhandled | Expired
Outcome: TypeAlias = (
    Returned | Raised | Rejected | TimedOut | MemoryExceeded | Crashed | Invalid | Unhandled | Expired | Stopped
)


class WorkerInfo(msgspec.Struct, frozen=True, gc=False):
    """Where an attempt ran and how that process ended; None is unknown or doesn't apply."""

    host: str | None = None
    pid: int | None = None
    signal: str | None = None
    exit_code: int | None = None
    rss: int | None = None
