"""From an outcome to what the session is told, and from a death to an outcome. Pure."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

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
from busworker.outcome import Error, WorkerInfo

MOST_STACK = 16_000
"""Characters of a Python stack that a dead letter carries, cut in the middle."""


class Ended(msgspec.Struct, gc=False):
    """A held message whose attempt has ended, and where it ran."""

    held: Held
    outcome: how.Outcome
    worker: WorkerInfo


class Step(msgspec.Struct, gc=False):
    """What to do about an ended attempt: `delay` is the retry queue it needs, `returned` that nothing is charged.

    `reason` is why it becomes a dead letter.
    """

    item: Settled
    delay: int = 0
    returned: bool = False
    text: str | None = None
    reason: str | None = None


def step(ended: Ended, spec: SubscriptionSpec, now: float) -> Step:
    """What the session must do to settle it, and what the log says (None: nothing)."""
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
            return Step(Settled(tag, "ack", (copy,)), delay, text=f"again in {delay} s ({_cause(ended.outcome)})")
        case settlement.Dead(reason, attempts, error):
            letter = Letter(reason, attempts, rfc3339(now), error, ended.worker)
            copy = dead_copy(held.delivery, envelope, letter, topology.dead_target(work))
            return Step(Settled(tag, "ack", (copy,)), text=f"dead: {reason} ({_cause(ended.outcome)})", reason=reason)


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


def rfc3339(now: float) -> str:
    """A Unix time as RFC 3339 UTC with milliseconds."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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


def _cause(outcome: how.Outcome) -> str:
    error = getattr(outcome, "error", None)
    if not isinstance(error, Error):
        return ""
    return f"{error.type}: {error.message[:200]}" if error.message else error.type
