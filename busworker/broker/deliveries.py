"""A consumer of one queue on an AMQP connection, with a kombu_channel of its own, and what it delivers."""

from __future__ import annotations

from typing import Any, ClassVar

from amqp.spec import Basic

from busworker.broker.acks import Acks
from busworker.broker.lookahead import MOST
from busworker.message import Delivery
from busworker.transports.amqp.codec import read_properties
from busworker.transports.amqp.connection import read_deliver
from busworker.transports.amqp.frames import Method

SHRINK_AFTER = 1.0
"""Seconds between a change and one to less."""


class Consumer:
    """Deliveries of one queue. Their tags hold the number of the kombu_channel, and so are unique in a session.

    A prefetch can't be changed while it consumes: `basic.qos` holds for those who begin later (RabbitMQ, "Consumer
    Prefetch"). So more is another consumer on the same kombu_channel, with the difference. Less is one that is
    cancelled: what it has delivered stays ours, and what was just under way to it goes back into the queue.
    """

    SHIFT: ClassVar[int] = 48

    def __init__(self, kombu_channel: Any, queue: str) -> None:
        self.queue = queue
        self.channel_id: int = kombu_channel.channel_id
        self.acks = Acks()
        self._channel = kombu_channel
        self._parts: list[tuple[str, int]] = []
        self._changed_at = 0.0
        self._number = 0

    def start(self, prefetch: int) -> None:
        """Begins, with at most so many unsettled. Waits until the broker has taken it."""
        prefetch = min(max(prefetch, 1), MOST)
        self._channel.basic_qos(0, prefetch, False)
        self._channel.basic_consume(self.queue, consumer_tag=self._part(prefetch))

    def fit(self, wanted: int, now: float) -> None:
        """Has the broker deliver so many ahead. Waits for nothing."""
        wanted = min(max(wanted, 1), MOST)
        total = sum(prefetch for _, prefetch in self._parts)
        if wanted == total or (wanted < total and now - self._changed_at < SHRINK_AFTER):
            return
        self._changed_at = now
        while total > wanted:
            total -= self._cancel()
        if total < wanted:
            self._add(wanted - total)

    def more(self, prefetch: int) -> None:
        """Allows so many more. Waits for nothing."""
        self._add(prefetch)

    def cease(self) -> None:
        """Ends deliveries. Waits for nothing: some may still arrive."""
        while self._parts:
            self._cancel()

    def _add(self, prefetch: int) -> None:
        # Without waiting for its qos-ok, which says nothing.
        self._channel.send_method(Basic.Qos, "lBb", (0, prefetch, False))
        self._channel.basic_consume(self.queue, consumer_tag=self._part(prefetch), nowait=True)

    def _part(self, prefetch: int) -> str:
        self._number += 1
        # A quorum queue takes back what several hold in the order of their names.
        self._parts.append((f"busworker-{self._number:06}", prefetch))
        return self._parts[-1][0]

    def _cancel(self) -> int:
        tag, prefetch = self._parts.pop()
        self._channel.basic_cancel(tag, nowait=True)
        self._channel.callbacks.pop(tag, None)
        return prefetch

    def conclude(self, tag: int, verb: str, now: float) -> bool:
        """A delivery is done, or goes back. Whether the broker is told already."""
        delivery_tag = tag & ((1 << self.SHIFT) - 1)
        if verb == "ack":
            self.acks.done(delivery_tag, now)
            return False
        self._channel.basic_reject(delivery_tag, requeue=True)
        self.acks.returned(delivery_tag)
        return True

    def acknowledge(self, now: float, *, at_once: bool) -> list[int]:
        """Sends the acknowledgements that are due; returns the tags of what they settle."""
        sending = self.acks.take(now, at_once=at_once)
        if sending.upto:
            self._channel.basic_ack(sending.upto, multiple=True)
        for delivery_tag in sending.single:
            self._channel.basic_ack(delivery_tag)
        base = self.channel_id << self.SHIFT
        return [base | delivery_tag for delivery_tag in sending.tags]

    def unacknowledged(self) -> list[int]:
        """The tags of what is done, and the broker doesn't know."""
        base = self.channel_id << self.SHIFT
        return [base | delivery_tag for delivery_tag in self.acks.waiting]

    def close(self) -> None:
        """What is unsettled goes back, in its place."""
        self._channel.close()


def read_delivery(method: Method, consumer: Consumer) -> Delivery:
    """A delivery as it came, whatever it carries."""
    tag, redelivered, routing_key = read_deliver(method.payload)
    properties = read_properties(method.header or b"", 12)
    return Delivery(
        tag=consumer.channel_id << Consumer.SHIFT | tag,
        queue=consumer.queue,
        routing_key=routing_key,
        redelivered=redelivered,
        properties=properties.plain,
        headers=properties.headers,
        body=method.body,
        damage=properties.damage,
    )
