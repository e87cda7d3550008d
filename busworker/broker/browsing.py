"""Looks at a queue on AMQP, which has no such method: consumes it, and gives everything back.

Closing the kombu_channel gives everything back; a requeue would move it to the back of a quorum queue. A classic queue
puts each message into its place, a quorum queue doesn't always: `lookahead` says how far a look has to go there.

One look at a time: another would miss what this one holds, and what both give back would be in another order.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from amqp.exceptions import ResourceLocked

from busworker.broker import topology, wire
from busworker.broker.deliveries import Consumer, read_delivery
from busworker.broker.lookahead import Lookahead
from busworker.errors import BrokerUnavailable
from busworker.message import Delivery
from busworker.transports.amqp.connection import read_deliver
from busworker.uninterrupted import UNINTERRUPTED

QUIET = 1.0
"""Seconds without a delivery after which we ask whether there are any more."""
ANSWER = 5.0
"""Seconds without an answer after which a look gives up, and its connection with it: whoever ends a command doesn't
wait for long. And seconds to wait until what was looked at is back in its queue."""
PATIENCE = 10.0
"""Seconds without a delivery after which we take it that the rest is somebody else's, whatever the broker counts. And
seconds to wait for another look to end."""
ASK_AGAIN = 0.1
COUNTED = (b"x-delivery-count", b"x-acquired-count")
"""What a quorum queue writes into each message that it delivers again."""


class Browsing:
    """One look at a queue from its head.

    Args:
        link: the transport's connection to look on.
        queue: which; it must exist.
        limit: how many at most; None: all that are there at the beginning.
    """

    def __init__(self, link: Any, queue: str, limit: int | None) -> None:
        self.link = link
        self._channel: Any = link.channel()
        self._ahead = Lookahead(wire.ready(self._channel, queue), limit)
        self._limit = limit
        self.consumer = Consumer(self._channel, queue)

    def deliveries(self) -> Iterator[Delivery]:
        """Each message once, in their order."""
        for method in itertools.islice(self._methods(), self._limit):
            yield read_delivery(method, self.consumer)

    def batches(self, wanted: Callable[[Delivery], bool], limit: int | None, size: int) -> Generator[list[Delivery]]:
        """Those that are wanted, at most `limit`, in lists of `size`, to be settled one list after the other."""
        meant = itertools.islice(self._held(wanted), limit)
        while held := list(itertools.islice(meant, size)):
            yield held

    def close(self) -> None:
        """Everything that is unsettled is back when it returns, or some seconds have passed."""
        self._ahead.enough()
        for _ in self._methods():
            pass  # delivered, so that it goes back in its order
        unsettled = self._ahead.there - self.consumer.acks.settled
        with UNINTERRUPTED:
            self.consumer.close()
            self._forget()
        if unsettled:
            self._wait_returned(unsettled)

    def _methods(self) -> Iterator[Any]:
        """What is to be seen or has to be delivered, as it comes."""
        while self._ahead.more:
            if (method := self._next()) is None:
                return
            yield method

    def _held(self, wanted: Callable[[Delivery], bool]) -> Iterator[Delivery]:
        """What is wanted, a part at a time.

        What is acknowledged makes room for more in its consumer, behind what others hold by then. So a consumer is
        cancelled before anything of it is settled, and not before all has come: the rest would move to the back.
        """
        while self._ahead.more:
            part = deque(filter(wanted, self._part()))
            with UNINTERRUPTED:
                self.consumer.cease()
            while part:
                yield part.popleft()

    def _part(self) -> Iterator[Delivery]:
        method = self._next()
        while method is not None:
            yield read_delivery(method, self.consumer)
            method = self._next(more=False) if self._ahead.outstanding else None

    def _next(self, *, more: bool = True) -> Any:
        """The next one, once it is there; None if none is to come. `more` may be let come."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with UNINTERRUPTED:
                if more and (number := self._ahead.grant()):
                    self.consumer.more(number)
                if (method := self._arrived()) is not None:
                    return method
                quiet = not self._drained()
            with UNINTERRUPTED:
                if quiet and self._is_over(deadline):
                    return None

    def _arrived(self) -> Any:
        while self.link.arrived:
            method = self.link.arrived.popleft()
            if method.channel == self.consumer.channel_id:
                self._ahead.came(len(method.header) + len(method.body), in_place=self._is_in_place(method))
                return method
        return None

    def _drained(self) -> bool:
        try:
            self.link.drain_events(timeout=QUIET)
        except TimeoutError:
            return False
        return True

    def _is_over(self, deadline: float) -> bool:
        rest = wire.ready(self._channel, self.consumer.queue)
        if self.link.arrived or (rest and time.monotonic() < deadline):
            return False
        self._ahead.end(rest)  # somebody else has taken what was to come
        return True

    def _is_in_place(self, method: Any) -> bool:
        _, redelivered, _ = read_deliver(method.payload)
        # Anywhere in its properties: where that is only some text, the look goes further than it has to.
        return not redelivered or not any(name in method.header for name in COUNTED)

    def _forget(self) -> None:
        # What came and nobody took from there: the next kombu_channel may have the same number.
        others = [method for method in self.link.arrived if method.channel != self.consumer.channel_id]
        self.link.arrived.clear()
        self.link.arrived.extend(others)

    def _wait_returned(self, expected: int) -> None:
        # A quorum queue learns of the closed channel a few milliseconds later (tried on 3.10): who looks again at once
        # would find nothing. Somebody else may have fetched them meanwhile, so not for ever.
        deadline = time.monotonic() + ANSWER
        with UNINTERRUPTED:
            channel = self.link.channel()
        while time.monotonic() < deadline:
            with UNINTERRUPTED:
                if wire.ready(channel, self.consumer.queue) >= expected:
                    channel.close()
                    return
            time.sleep(0.002)


@contextmanager
def look(link: Any, queue: str, limit: int | None) -> Generator[Browsing]:
    """A look that gives everything back at its end. After an error only the end of the connection does.

    Nobody else looks meanwhile, as long as they ask here too: it holds a queue that is exclusive, and so gone with the
    connection (AMQP 0-9-1, queue.declare). A quorum queue knows no exclusive consumers.

    Raises:
        BrokerUnavailable: somebody else looks at it, and goes on doing so for `PATIENCE`.
    """
    lock = _locked(link, queue)
    with wire.patient(link, ANSWER):
        with UNINTERRUPTED:
            browsing = Browsing(link, queue, limit)
        try:
            yield browsing
        except (GeneratorExit, KeyboardInterrupt):
            _end(browsing, lock)
            raise
        _end(browsing, lock)


def _locked(link: Any, queue: str) -> Any:
    """Waits until nobody else looks; a channel to end that on."""
    lock = topology.look(queue)
    deadline = time.monotonic() + PATIENCE
    while True:
        channel = link.channel()
        try:
            channel.queue_declare(lock.name, exclusive=True, auto_delete=False, arguments=lock.arguments)
        except ResourceLocked as error:
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"another command looks at {queue}: try again when it has ended") from error
            time.sleep(ASK_AGAIN)
        else:
            return channel


def _end(browsing: Browsing, lock: Any) -> None:
    if browsing.link.connected:
        browsing.close()
        lock.queue_delete(topology.look(browsing.consumer.queue).name)
        lock.close()
