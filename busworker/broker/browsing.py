"""Looks at a queue on AMQP, which has no such method: consumes it, and gives everything back.

Closing the kombu_channel gives everything back; a classic queue puts each message into its place. A quorum queue puts
what comes back behind what had come back before (tried on 3.10.8). So a second look at some of its messages would turn
the queue; one that has all of them delivered leaves it as it is. Each look does that, however few messages are wanted,
and holds none of them in memory.

Guarantees:
    Order and content stay if the look ends by `close`, with at most 65,535 messages. A look that is killed, or whose
    connection is lost, may turn a quorum queue; it loses nothing.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

from busworker.broker import wire
from busworker.broker.deliveries import MOST, Consumer, read_delivery
from busworker.message import Delivery

QUIET = 1.0
"""Seconds without a delivery after which we ask whether there are any more. A queue that begins with 65,535 takes
its time, and an answer that comes behind deliveries would have us hold them all."""
RETURN_TIMEOUT = 1.0
"""Seconds to wait until what was looked at is back in its queue."""
PATIENCE = 10.0
"""Seconds without a delivery after which we take it that the rest is somebody else's, whatever the broker counts."""


class Browsing:
    """One look at a queue from its head.

    Args:
        link: the transport's connection to look on.
        queue: which; it must exist.
        limit: how many at most; None: all that are there at the beginning.
    """

    def __init__(self, link: Any, queue: str, limit: int | None) -> None:
        self._link = link
        self._channel: Any = link.channel()
        self._there = wire.ready(self._channel, queue)
        self._left = self._there
        self._limit = limit
        self.consumer = Consumer(self._channel, queue)
        self._granted = min(self._there, MOST)
        if self._there:
            self.consumer.start(self._granted)

    def deliveries(self) -> Iterator[Delivery]:
        """Each message once, in their order."""
        for method in itertools.islice(self._methods(), self._limit):
            yield read_delivery(method, self.consumer)

    def batches(self, wanted: Callable[[Delivery], bool], limit: int, size: int) -> Generator[list[Delivery]]:
        """Those that are wanted, at most `limit`, in lists of `size`."""
        meant = itertools.islice(filter(wanted, self.deliveries()), limit)
        while held := list(itertools.islice(meant, size)):
            yield held

    def close(self) -> None:
        """Everything that is unsettled is back when it returns, or a second has passed."""
        if not self._link.connected:
            return
        for _ in self._methods():
            pass  # delivered, so that it goes back in its order
        settled = self.consumer.acks.settled
        self.consumer.close()
        if self._there > settled:
            self._wait_returned(self._there - settled)

    def _methods(self) -> Iterator[Any]:
        while self._left and (method := self._next()) is not None:
            self._left -= 1
            self._granted -= 1
            if not self._granted and self._left:  # a prefetch has 16 bits (AMQP 0-9-1, basic.qos)
                self._granted = min(self._left, MOST)
                self.consumer.more(self._granted)
            yield method

    def _next(self) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            while self._link.arrived:
                method = self._link.arrived.popleft()
                if method.channel == self.consumer.channel_id:
                    return method
            try:
                self._link.drain_events(timeout=QUIET)
            except TimeoutError:
                rest = wire.ready(self._channel, self.consumer.queue)
                if not self._link.arrived and (not rest or time.monotonic() > deadline):
                    return None  # somebody else has taken the rest

    def _wait_returned(self, expected: int) -> None:
        # A quorum queue learns of the closed channel a few milliseconds later (tried on 3.10): who looks again at once
        # would find nothing. Somebody else may have fetched them meanwhile, so not for ever.
        deadline = time.monotonic() + RETURN_TIMEOUT
        with self._link.channel() as channel:
            while wire.ready(channel, self.consumer.queue) < expected and time.monotonic() < deadline:
                time.sleep(0.002)
