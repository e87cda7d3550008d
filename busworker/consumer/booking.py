"""What is written down of attempts that are settled: the pool's counters, and a line for each that failed."""

from __future__ import annotations

import logging
import time

from busworker import fault_log
from busworker.consumer.dispatch import Held
from busworker.consumer.figures import Figures
from busworker.consumer.settlements import Concluded
from busworker.consumer.settling import Failed
from busworker.ipc.frames import LastError
from busworker.jobs import ConsumerJob
from busworker.log_fields import Told, event
from busworker.moments import rfc3339
from busworker.names import subscription_name
from busworker.settlement import charged

log = fault_log.logger("busworker.consumer")


def book(settled: list[Concluded], job: ConsumerJob, figures: Figures) -> None:
    """Counts them on the scoreboard of the job's pool, and tells the log which failed, and what comes of them."""
    tells_all = log.isEnabledFor(logging.DEBUG)
    executed = bad = 0
    for one in settled:
        if one.step.failed is not None:
            figures.last_error = last = _last_error(one, one.step.failed, job)
            _tell(last, one, one.step.failed, job)
            bad += charged(one.ended.outcome)
        elif tells_all and not one.step.returned:
            name, envelope = _subscription(one, job), one.ended.held.envelope
            log.debug("%s message %s done", name, envelope.id, extra=event("message_done", **_told(one, job)))
        if (field := _field(one)) is not None:
            job.tally.count(one.ended.held.subscription, field)
            executed += field == "processed"
    job.board.count(executed, bad)
    figures.ended(executed + bad, time.monotonic())


def _field(one: Concluded) -> str | None:
    """The field of the tally that it is counted in; None: none, for it was settled before and came once more."""
    if (failed := one.step.failed) is not None:
        return f"{'dead' if failed.dead else 'retried'} {failed.reason}"
    if one.step.returned:
        return "given_back"
    return "processed" if one.ended.held.number > 0 else None


def tell_lost(held: Held) -> None:
    """Tells the log that another pool was given a message while there was no connection."""
    told = event("message_taken", topic=held.envelope.topic, message_id=held.envelope.id, attempt=held.envelope.attempt)
    log.warning("message %s went to another consumer when the connection was lost", held.envelope.id, extra=told)


def _last_error(one: Concluded, failed: Failed, job: ConsumerJob) -> LastError:
    held = one.ended.held
    spec, envelope = job.channel.subscriptions[held.subscription], held.envelope
    name = _subscription(one, job)
    return LastError(rfc3339(time.time()), name, envelope.id, envelope.attempt, spec.max_attempts, failed.text)


def _tell(last: LastError, one: Concluded, failed: Failed, job: ConsumerJob) -> None:
    what = (last.subscription, last.message, last.attempt, last.max_attempts, last.error)
    told = _told(one, job) | {"reason": failed.reason, "fault": failed.cause}
    extra = event("message_dead" if failed.dead else "attempt_failed", **told)
    log.warning("%s message %s attempt %d/%d: %s", *what, extra=extra)


def _told(one: Concluded, job: ConsumerJob) -> Told:
    held = one.ended.held
    return {
        "channel": job.channel.name,
        "slot": held.slot + 1 if held.number else None,
        "topic": held.envelope.topic,
        "message_id": held.envelope.id,
        "attempt": held.envelope.attempt,
        "duration": None if one.ended.seconds is None else round(one.ended.seconds, 6),
    }


def _subscription(one: Concluded, job: ConsumerJob) -> str:
    topic = job.channel.subscriptions[one.ended.held.subscription].topic
    return subscription_name(topic, job.service, job.channel.name)
