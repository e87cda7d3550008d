"""What a consumer tells the supervisor of its queues, for `busworker status`."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from busworker.broker.session import Session
from busworker.broker.topology import dead_queue
from busworker.errors import BusworkerError
from busworker.ipc import frames

log = logging.getLogger("busworker.consumer")


def counts_told(request: int, session: Session | None, queues: Sequence[str], in_flight: int) -> frames.CountsTold:
    """The counts of a channel; None is what the broker doesn't tell, or can't now.

    Args:
        request: the number of the question.
        session: the broker, None without a connection.
        queues: the channel's work queues.
        in_flight: what the consumer holds.
    """
    ready = waiting = dead = None
    try:
        if session is not None:
            ready, dead = (_sum(session, names) for names in (queues, list(map(dead_queue, queues))))
            waits = [session.waiting(queue) for queue in queues]
            waiting = None if None in waits else sum(count or 0 for count in waits)
    except BusworkerError as error:
        log.warning("the counts can't be had: %s", error)
    return frames.CountsTold(request, ready, waiting, dead, in_flight)


def _sum(session: Session, queues: Sequence[str]) -> int:
    return sum(counts.ready for queue in queues if (counts := session.counts(queue)))
