"""What a consumer tells the supervisor of its queues, for `busworker status`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from busworker import fault_log
from busworker.broker.session import Session
from busworker.broker.topology import dead_queue
from busworker.consumer.figures import Figures
from busworker.errors import BusworkerError
from busworker.ipc import frames
from busworker.log_fields import event
from busworker.message import read_envelope

log = fault_log.logger("busworker.consumer")


class Seen(NamedTuple):
    """What the consumer itself knows: how many messages it holds, since when the first of them waits, what ended."""

    in_flight: int
    oldest: int | None
    figures: Figures


def counts_told(request: int, session: Session | None, queues: Sequence[str], seen: Seen) -> frames.CountsTold:
    """The counts of a channel; None is what the broker doesn't tell, or can't now.

    Args:
        request: the number of the question.
        session: the broker, None without a connection.
        queues: the channel's work queues.
        seen: by the consumer.
    """
    ready = waiting = dead = None
    published = [seen.oldest]
    try:
        if session is not None:
            ready, dead = (_sum(session, names) for names in (queues, list(map(dead_queue, queues))))
            waits = [session.waiting(queue) for queue in queues]
            waiting = None if None in waits else sum(count or 0 for count in waits)
            published += [read_envelope(head).published_at for queue in queues if (head := session.head(queue))]
    except BusworkerError as error:
        log.warning("the counts can't be had: %s", error, extra=event("counts_unknown", fault=str(error)))
    return frames.CountsTold(
        request,
        ready,
        waiting,
        dead,
        seen.in_flight,
        oldest=min((moment for moment in published if moment is not None), default=None),
        rate=seen.figures.rate(time.monotonic()),
        last_error=seen.figures.last_error,
    )


def _sum(session: Session, queues: Sequence[str]) -> int:
    return sum(counts.ready for queue in queues if (counts := session.counts(queue)))
