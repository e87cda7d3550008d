"""What is written down of attempts that are settled: the pool's counters, and a line for each that failed."""

from __future__ import annotations

import logging
import time

from busworker import outcome as how
from busworker.broker.topology import subscription
from busworker.consumer.figures import Figures
from busworker.consumer.settlements import Concluded
from busworker.consumer.settling import rfc3339
from busworker.ipc.frames import LastError
from busworker.jobs import ConsumerJob
from busworker.settlement import charged

log = logging.getLogger("busworker.consumer")


def book(settled: list[Concluded], job: ConsumerJob, figures: Figures) -> None:
    """Counts them on the scoreboard of the job's pool, and tells the log which failed, and what comes of them."""
    for one in settled:
        if one.step.text is not None:
            figures.last_error = failed = _failed(one, one.step.text, job)
            _tell(failed)
        if (field := _field(one)) is not None:
            job.tally.count(one.ended.held.subscription, field)
    returned = [one.ended.held for one in settled if isinstance(one.ended.outcome, how.Returned)]
    executed = sum(held.number > 0 for held in returned)  # not so what was settled before and came once more
    bad = sum(charged(one.ended.outcome) for one in settled) - len(returned)
    job.board.count(executed, bad)
    figures.ended(executed + bad, time.monotonic())


def _field(one: Concluded) -> str | None:
    """The field of the tally that it is counted in; None: none, for it was settled before and came once more."""
    if one.step.reason is not None:
        return f"dead {one.step.reason}"
    match one.ended.outcome:
        case how.Returned():
            return "processed" if one.ended.held.number > 0 else None
        case how.Stopped():
            return "given_back"
        case how.TimedOut():
            return "retried time_limit"
        case how.MemoryExceeded():
            return "retried memory_limit"
        case how.Crashed():
            return "retried crash"
        case _:
            return "retried exception"


def _failed(one: Concluded, text: str, job: ConsumerJob) -> LastError:
    held = one.ended.held
    spec, envelope = job.channel.subscriptions[held.subscription], held.envelope
    name = subscription(spec.topic, job.service, job.channel.name)
    return LastError(rfc3339(time.time()), name, envelope.id, envelope.attempt, spec.max_attempts, text)


def _tell(failed: LastError) -> None:
    what = (failed.subscription, failed.message, failed.attempt, failed.max_attempts, failed.error)
    log.warning("%s message %s attempt %d/%d: %s", *what)
