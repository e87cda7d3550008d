"""What an AMQP session publishes: mandatory, confirmed, and pipelined."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from busworker.broker import topology
from busworker.broker.confirms import Batch, Confirms
from busworker.brokers import Broker
from busworker.errors import BrokerUnavailable, BusworkerError, EncodeError, TopologyMismatch
from busworker.message import TOPIC, Outgoing

LATE = 30.0
"""Seconds without a confirm after which somebody should look at the broker."""
FLUSH_EACH = 64
"""Messages that are written before the socket gets them: the broker works on them while we write the next."""


class Publishing:
    """Publishes on one kombu_channel.

    Args:
        broker: whose connection it is; for errors.
        link: the connection.
        kombu_channel: one on it that nobody else publishes on.
        declare_delays: makes what delayed messages wait in, if it isn't there; called before each of them.

    Attributes:
        confirms: what was published and isn't confirmed yet.
        doubtful: whether something was published that the broker hasn't answered in time.
    """

    def __init__(self, broker: Broker, link: Any, kombu_channel: Any, declare_delays: Callable[[], None]) -> None:
        kombu_channel.confirm_select()
        self._broker = broker
        self._link = link
        self._channel_id: int = kombu_channel.channel_id
        self._declare_delays = declare_delays
        self.doubtful = False
        self.confirms = Confirms()
        link.on_confirm = self.confirms.confirmed
        link.on_return = self.confirms.returned

    def send(self, outgoing: Outgoing, batch: Batch) -> None:
        """Writes a message of a batch; it is on its way with the next that the link sends.

        Raises:
            EncodeError: AMQP can't carry it; nothing is sent.
            TopologyMismatch: what it would wait in differs; nothing is sent.
        """
        meant = outgoing
        if outgoing.delay:
            outgoing = self._delayed(outgoing, outgoing.delay)
        try:
            self._link.publish(
                self._channel_id,
                outgoing.exchange,
                outgoing.routing_key,
                outgoing.body,
                outgoing.properties,
                outgoing.headers,
            )
        except ValueError as error:
            raise EncodeError(f"message {outgoing.id or '(no id)'} can't be sent by AMQP: {error}") from error
        self.confirms.sent(outgoing, batch, meant, now=time.monotonic())

    def publish(
        self,
        outgoing: Sequence[Outgoing],
        watched: Callable[[], AbstractContextManager[None]],
        wait: Callable[[], None],
    ) -> list[BusworkerError | None]:
        """As `Session.publish`.

        Args:
            outgoing: what.
            watched: turns errors into ours.
            wait: waits for an answer, or raises BrokerUnavailable.
        """
        batch, unsent, found = Batch(len(outgoing)), deque(outgoing), dict[int, BusworkerError]()
        try:
            with watched():
                self._send_all(unsent, batch, found)
            while batch.left:
                wait()
        except BrokerUnavailable as error:
            self.doubtful = True
            found |= {id(one): error for one in (*unsent, *self.confirms.unanswered(batch))}
        if batch.refusal is not None:
            refused = BrokerUnavailable(f"broker {self._broker}: {batch.refusal}")
            found |= {id(one): refused for one in batch.refused}
        return [found.get(id(one)) for one in outgoing]

    @property
    def trouble(self) -> str | None:
        """That a confirm is late, else None. A quorum queue without a leader takes what it is sent, and confirms
        nothing; it may still be stored, so it isn't sent again.
        """
        oldest = self.confirms.oldest
        if oldest is None or time.monotonic() < oldest[0] + LATE:
            return None
        return f"broker {self._broker} hasn't confirmed a message to {oldest[1]} for more than {LATE:g} s"

    def _send_all(self, unsent: deque[Outgoing], batch: Batch, found: dict[int, BusworkerError]) -> None:
        """Sends from the front: what is left there afterwards was not sent."""
        while unsent:
            one = unsent[0]
            try:
                self.send(one, batch)
            except (EncodeError, TopologyMismatch) as error:
                found[id(one)] = error
                batch.left -= 1
            unsent.popleft()
            if not len(unsent) % FLUSH_EACH:
                self._link.pump()

    def _delayed(self, outgoing: Outgoing, delay: float) -> Outgoing:
        topic = outgoing.routing_key
        target = topology.delayed_target(delay, topic)
        self._declare_delays()
        # The routing key is longer when it arrives.
        headers = {**outgoing.headers, TOPIC: topic}
        return Outgoing(target.exchange, target.routing_key, outgoing.body, outgoing.properties, headers)
