"""The consumer's housekeeping: dead letters and unrouted messages beyond the limits of the settings go."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from busworker.broker.session import Session
from busworker.broker.topology import UNROUTED, dead_queue
from busworker.deadletters import drop_oldest
from busworker.log_fields import event
from busworker.retention import Retention

log = logging.getLogger("busworker.consumer")

EVERY = 60.0
"""Seconds between two looks."""

MOST = 500
"""How many of a queue go at once: the consumer's other work waits meanwhile."""


class Retaining:
    """Keeps the queues of a channel within the limits; on the embedded engine only, where looking costs little."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self.next_at = float("inf") if retention.unlimited else 0.0
        """When there is something to do, on the clock of `keep`."""

    def keep(self, session: Session, work_queues: Iterable[str], monotonic: float, now: float) -> None:
        """Drops a batch of what is beyond the limits, if it is time.

        Args:
            session: the consumer's.
            work_queues: those of the channel.
            monotonic: the clock of `next_at`.
            now: Unix time.

        Raises:
            BrokerUnavailable: what is left is dropped the next time.
        """
        if monotonic < self.next_at:
            return
        if not session.broker.embedded:
            log.warning("the limits for dead letters and unrouted messages are not for RabbitMQ: set a policy there")
            self.next_at = float("inf")
            return
        more = False
        for queue, before, keep in self._limits(work_queues, now):
            dropped = drop_oldest(session, queue, before=before, keep=keep, most=MOST)
            more = more or dropped == MOST
            if dropped:
                text = "dropped %d messages of %s, which are beyond the limits of the settings"
                log.info(text, dropped, queue, extra=event("messages_dropped"))
        self.next_at = monotonic + (0.1 if more else EVERY)

    def _limits(self, work_queues: Iterable[str], now: float) -> Iterator[tuple[str, float | None, int | None]]:
        limits = self._retention
        if limits.dead_max_age is not None or limits.dead_max_count is not None:
            before = None if limits.dead_max_age is None else now - limits.dead_max_age
            for queue in work_queues:
                yield dead_queue(queue), before, limits.dead_max_count
        if limits.unrouted_max_age is not None:
            yield UNROUTED, now - limits.unrouted_max_age, None
