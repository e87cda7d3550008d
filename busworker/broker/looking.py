"""The part of a session with RabbitMQ that looks at queues, and removes them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from busworker.broker import wire
from busworker.broker.browsing import Browsing, look
from busworker.broker.connection import translated
from busworker.broker.deliveries import Consumer
from busworker.broker.session import Counts, Session
from busworker.errors import BrokerUnavailable
from busworker.message import Delivery

T = TypeVar("T")

COUNT_TIMEOUT = 2.0
"""Seconds for a count: a consumer has better things to do than to wait for it."""


class AmqpLooking(Session):
    """What asks on the connection that fetches, else on the one that publishes.

    A client can't list queues, nor see what waits in one without fetching it.
    """

    pushes: ClassVar[bool] = True
    _link: Any
    _consuming: Any
    _consumers: dict[int, Consumer]
    _over = False
    _counting: Any = None

    def queues(self) -> list[str] | None:
        return None

    def routed(self, topic: str) -> bool | None:
        return None

    def counts(self, queue: str) -> Counts | None:
        ready = self._asked(queue, wire.ready_if_exists)
        return None if ready is None else Counts(ready, None)

    def consumers(self, queue: str) -> int:
        return self._asked(queue, wire.consumers_if_exists) or 0

    def waiting(self, work_queue: str) -> int | None:
        return None

    def browse(self, queue: str, *, limit: int | None = None, newest_first: bool = True) -> Generator[Delivery]:
        with self._browsing(queue, limit) as browsing:
            yield from browsing.deliveries()

    def take(
        self, queue: str, wanted: Callable[[Delivery], bool], limit: int | None, size: int
    ) -> Generator[list[Delivery]]:
        with self._browsing(queue, None) as browsing:
            self._consumers[browsing.consumer.channel_id] = browsing.consumer
            try:
                yield from browsing.batches(wanted, limit, size)
            finally:
                del self._consumers[browsing.consumer.channel_id]

    def delete(self, queue: str) -> int | None:
        # Quorum queues know no if-unused (RabbitMQ: error 540, which ends the connection).
        if self.consumers(queue):
            return None
        with translated(self.broker):
            channel = self._looking().channel()
            removed = channel.queue_delete(queue)
            channel.close()
        return int(removed or 0)

    def _asked(self, queue: str, question: Callable[[Any, str], T | None]) -> T | None:
        """What is said of a queue; None if there is none."""
        link = self._looking()
        # A channel whose answer is late is given up: that would be taken for the answer to the next question.
        channel, self._counting = self._counting, None
        try:
            with translated(self.broker), wire.patient(link, COUNT_TIMEOUT):
                channel = channel or link.channel()
                answer = question(channel, queue)
        except BrokerUnavailable as error:
            # What is merely late may still come; a broker that is gone for good is noticed by its heartbeats.
            self._over = self._over or not isinstance(error.__cause__, TimeoutError)
            raise
        if answer is not None:  # else that has closed it
            self._counting = channel
        return answer

    @contextmanager
    def _browsing(self, queue: str, limit: int | None) -> Generator[Browsing]:
        with translated(self.broker), look(self._looking(), queue, limit) as browsing:
            yield browsing

    def _looking(self) -> Any:
        return self._consuming or self._link
