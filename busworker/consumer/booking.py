"""What is written down of attempts that are settled: the pool's counters, and a line for each that failed."""

from __future__ import annotations

import logging

from busworker import outcome as how
from busworker.broker.topology import subscription
from busworker.consumer.settlements import Concluded
from busworker.jobs import ConsumerJob
from busworker.settlement import charged

log = logging.getLogger("busworker.consumer")


def book(settled: list[Concluded], job: ConsumerJob) -> None:
    """Counts them on the scoreboard of the job's pool, and tells the log which failed, and what comes of them."""
    for one in settled:
        if one.step.text is not None:
            _tell(one, one.step.text, job)
    returned = [one.ended.held for one in settled if isinstance(one.ended.outcome, how.Returned)]
    executed = sum(held.number > 0 for held in returned)  # not so what was settled before and came once more
    job.board.count(executed, sum(charged(one.ended.outcome) for one in settled) - len(returned))


def _tell(one: Concluded, text: str, job: ConsumerJob) -> None:
    held = one.ended.held
    spec, envelope = job.channel.subscriptions[held.subscription], held.envelope
    name = subscription(spec.topic, job.service, job.channel.name)
    log.warning("%s message %s attempt %d/%d: %s", name, envelope.id, envelope.attempt, spec.max_attempts, text)
