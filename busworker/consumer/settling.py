"""From an outcome to what the session is told, and from a death to an outcome. Pure."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from busworker import outcome as how
from busworker import settlement
from busworker.broker import topology
from busworker.broker.session import Settled
from busworker.consumer.dispatch import Held
from busworker.copies import Letter, cut, dead_copy, retry_copy
from busworker.declaration import SubscriptionSpec
from busworker.ipc.frames import ProcessDied
from busworker.message import milliseconds
from busworker.moments import rfc3339
from busworker.outcome import Error, WorkerInfo

MOST_STACK = 16_000
"""Characters of a Python stack that a dead letter carries, cut in the middle."""
_VALUE = re.compile(r"(Invalid (?:enum )?value |Input tag ).*?( found .*| - at (?:`key` in )?`[^`']*`)?$", re.DOTALL)
"""Where msgspec or pydantic repeats a part of a body that doesn't fit."""


class Ended(msgspec.Struct, gc=False):
    """A held message whose attempt has ended, and where it ran; `seconds` is what the handler took, None: unknown."""

    held: Held
    outcome: how.Outcome
    worker: WorkerInfo
    seconds: float | None = None


class Step(msgspec.Struct, gc=False):
    """What to do about an ended attempt: `delay` is the retry queue it needs, `returned` that nothing is charged.

    `failed` is for the log.
    """

    item: Settled
    delay: int = 0
    returned: bool = False
    failed: Failed | None = None


class Failed(NamedTuple):
    """A failed attempt: why, in a word and in a sentence, and what comes of it."""

    reason: str
    cause: str
    dead: bool
    text: str


def step(ended: Ended, spec: SubscriptionSpec, now: float) -> Step:
    """What the session must do to settle it, and what the log says."""
    held, tag = ended.held, ended.held.delivery.tag
    envelope, work = held.envelope, held.delivery.queue
    match settlement.settle(ended.outcome, envelope.attempt, spec):
        case settlement.Done(publishes):
            return Step(Settled(tag, "ack", publishes))
        case settlement.GiveBack():
            return Step(Settled(tag, "return"), returned=True)
        case settlement.RetryIn(delay, attempt):
            # A crash takes all with it that were executing in that process: apart, the guilty one is found.
            alone = isinstance(ended.outcome, how.Crashed)
            target, ready_at = topology.retry_target(delay, work), milliseconds(now + delay)
            copy = retry_copy(held.delivery, envelope, attempt, target, ready_at, alone=alone)
            return Step(Settled(tag, "ack", (copy,)), delay, failed=_failed(ended.outcome, f"again in {delay} s"))
        case settlement.Dead(reason, attempts, error):
            letter = Letter(reason, attempts, rfc3339(now), error, ended.worker)
            copy = dead_copy(held.delivery, envelope, letter, topology.dead_target(work))
            return Step(Settled(tag, "ack", (copy,)), failed=_failed(ended.outcome, f"dead: {reason}", dead=True))


def ended_by_death(
    handed: Iterable[Held], notice: ProcessDied, was_started: Callable[[int, int], bool]
) -> tuple[list[Ended], list[Held]]:
    """What the death of a worker means for what it had been handed.

    Args:
        handed: that, without what it has told the end of.
        notice: how it died.
        was_started: whether the message of a slot and number was ever begun.

    Returns:
        The attempts that it has ended, and the messages that are given back uncharged.
    """
    ended: list[Ended] = []
    waited: list[Held] = []
    for held in handed:
        started = was_started(held.slot, held.number)
        one = _ended(held, notice) if started else None
        if one is not None:
            ended.append(one)
        else:
            held.alone |= started  # it may be what held up the other, at whose limit they both were killed
            waited.append(held)
    return ended, waited


def owed(held: Held) -> Ended:
    """How a message ends whose pool was killed while it was executing or not yet settled."""
    text = "its consumer or supervisor was killed while this attempt was executing or not yet settled"
    return Ended(held, how.Crashed(Error("PoolKilled", text)), WorkerInfo(socket.gethostname()))


def _ended(held: Held, notice: ProcessDied) -> Ended | None:
    """How the death of its worker ends an attempt that was executing; None: it is given back uncharged."""
    worker = WorkerInfo(socket.gethostname(), notice.pid, notice.signal, notice.exit_code, notice.rss)
    meant = notice.number == held.number
    if notice.cause == "stopped" or (notice.cause in ("time_limit", "memory_limit") and not meant):
        return None
    traceback = None if notice.traceback is None else cut(notice.traceback, MOST_STACK)
    outcome: how.Outcome
    if notice.cause == "time_limit":
        outcome = how.TimedOut(Error("TimeLimitExceeded", notice.details, traceback))
    elif notice.cause == "memory_limit":
        outcome = how.MemoryExceeded(Error("MemoryLimitExceeded", notice.details, traceback))
    else:
        outcome = how.Crashed(Error(notice.signal or "Exit", notice.details, traceback))
    return Ended(held, outcome, worker)


def _failed(outcome: how.Outcome, text: str, *, dead: bool = False) -> Failed | None:
    match outcome:
        case how.Returned() | how.Stopped():
            return None
        case _:
            cause = _cause(outcome)
            return Failed(settlement.reason(outcome), cause, dead, f"{text} ({cause})")


def _cause(outcome: how.Failed) -> str:
    """The error in a line of the log. What of it is a part of the body stays out: the dead letter has both."""
    error = outcome.error
    text = _VALUE.sub(r"\1…\2", error.message) if isinstance(outcome, how.Invalid) else error.message
    return f"{error.type}: {text[:200]}" if text else error.type
