"""A session with RabbitMQ. Nothing in it waits for the broker but what says so, and then not for long.

One connection fetches and acknowledges and another publishes, because an alarm blocks a publishing connection with
everything on it (RabbitMQ, "Connections in Blocked State"). Who consumes nothing has the publishing one alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import kombu
import msgspec

from busworker.broker import topology, wire
from busworker.broker.confirms import Batch
from busworker.broker.connection import CONNECT_TIMEOUT, connect, translated
from busworker.broker.declarer import Declarer
from busworker.broker.deliveries import Consumer, read_delivery
from busworker.broker.looking import AmqpLooking
from busworker.broker.publishing import Publishing
from busworker.broker.refused import Refused
from busworker.broker.session import CONFIRM_TIMEOUT, Settled
from busworker.brokers import Broker
from busworker.errors import BrokerError, BrokerUnavailable, BusworkerError, ConfigurationError, EncodeError
from busworker.message import OWN_PREFIX, Delivery, Outgoing
from busworker.uninterrupted import UNINTERRUPTED

log = logging.getLogger("busworker.broker")

LAST_CONFIRMS = 1.0
"""Seconds that a session which is over waits for confirms; they take milliseconds, or never come."""
LEAST_PATIENCE = 0.1
"""Seconds for connecting, when nothing of its time is left."""
MOST_HEARTBEAT = 5.0
"""Seconds between two looks at the heartbeats, at most; a quarter of their interval where that is less."""


class _Settling(Batch, kw_only=True, eq=False):
    """The copies of a delivery, on their way."""

    item: Settled


class AmqpSession(AmqpLooking):
    """See `session.open_session`."""

    def __init__(self, broker: Broker, *, patience: float = CONNECT_TIMEOUT, heartbeats: bool = False) -> None:
        self.broker = broker
        self._patience = patience
        self._heartbeats = heartbeats
        # kombu's connections are only for the end: each use of one that is lost would connect anew, behind our back.
        self._connections: list[kombu.Connection] = []
        self._consuming: Any = None
        self._consumers: dict[int, Consumer] = {}
        self._refused = Refused()
        self._concluded: list[int] = []
        self._descriptors: dict[int, int] = {}
        self._ceased = False
        self._tick_at = 0.0
        try:
            with translated(broker):
                self._link = self._connected()
                channel: Any = self._link.channel()
                version = str(self._link.server_properties.get("version", ""))
                self._declarer = Declarer(channel, topology.flavour(broker.queue_type, version))
                self._publishing = Publishing(broker, self._link, channel, self._declarer.delays)
        except BaseException:
            self.close()
            raise

    def _connected(self) -> Any:
        connection = connect(self.broker, timeout=max(self._patience, LEAST_PATIENCE), heartbeats=self._heartbeats)
        self._connections.append(connection)
        return wire.link(connection)

    # Consuming

    def consume(self, queue: str, window: int) -> None:
        with self._watched():
            self._consume(queue, window, self._fetching())

    def listen(self, topic: str, window: int) -> None:
        with self._watched():
            link = self._fetching()
            self._consume(self._declarer.tail(topic), window, link)

    def _fetching(self) -> Any:
        """The connection that fetches."""
        if self._consuming is None:
            self._consuming = self._connected()
            # A connection that publishes may be blocked, and what is declared on it would wait.
            self._declarer.move(self._consuming.channel())
        return self._consuming

    def _consume(self, queue: str, window: int, link: Any) -> None:
        consumer = Consumer(link.channel(), queue)
        if not self._ceased:
            consumer.start(window)
        self._consumers[consumer.channel_id] = consumer

    def fetch(self, window: int) -> list[Delivery]:
        now = time.monotonic()
        with self._watched():
            if self._consuming is None:
                return []
            link = self._consuming
            for consumer in () if self._ceased else self._consumers.values():
                consumer.fit(window, now)
            link.pump()
            return self._deliveries(link)

    def cease(self) -> None:
        if self._ceased:
            return
        self._ceased = True
        with self._watched():
            for consumer in self._consumers.values():
                consumer.cease()

    def resume(self) -> None:
        self._ceased = False

    def _deliveries(self, link: Any) -> list[Delivery]:
        arrived = link.arrived
        found: list[Delivery] = []
        while arrived:
            method = arrived.popleft()
            consumer = self._consumers.get(method.channel)
            if consumer is not None:  # else its channel is closed, and it is back in its queue
                found.append(read_delivery(method, consumer))
        return found

    # Settling

    def submit(self, items: Sequence[Settled]) -> None:
        with self._watched():
            for item in items:
                if item.publishes:
                    self._publish_copies(item)
                else:
                    self._conclude(item)

    def concluded(self) -> list[int]:
        self._advance()
        concluded, self._concluded = self._concluded, []
        return concluded

    def stored(self) -> list[int]:
        self._wait_for_confirms()
        concluded, self._concluded = self._concluded, []
        for consumer in self._consumers.values():
            concluded += consumer.unacknowledged()
        return concluded

    def _wait_for_confirms(self) -> None:
        """If only the fetching connection is lost, the other tells soon what is stored and needn't be sent again."""
        deadline = time.monotonic() + LAST_CONFIRMS
        try:
            with translated(self.broker):
                while self._publishing.confirms.left and not self._link.blocked:
                    self._link.drain_events(timeout=max(0.0, deadline - time.monotonic()))
                    self._answered(time.monotonic())
        except BrokerError as error:
            log.debug("the copies of %d messages may be stored: %s", self._publishing.confirms.left, error)

    def settle(self, items: Sequence[Settled]) -> None:
        left = {item.tag for item in items}
        deadline = time.monotonic() + CONFIRM_TIMEOUT
        with UNINTERRUPTED:
            self.submit(items)
        try:
            while left := left.difference(self._concluded_now()):
                if self._refused.why is not None:
                    raise BrokerUnavailable(f"broker {self.broker}: {self._refused.why}")
                if UNINTERRUPTED.interruption is not None:  # which waits for this
                    deadline = min(deadline, time.monotonic() + MOST_HEARTBEAT)
                with UNINTERRUPTED:
                    self._await(deadline)
        finally:
            self._refused = Refused()  # whoever waits decides what comes next

    def _concluded_now(self) -> list[int]:
        with UNINTERRUPTED:
            self._advance(at_once=True)
        concluded, self._concluded = self._concluded, []
        return concluded

    def _advance(self, *, at_once: bool = False) -> None:
        with self._watched():
            now = time.monotonic()
            if again := self._refused.take(now):
                self._declarer.again()
            for item in again:
                self._publish_copies(item)
            self._link.pump()
            self._answered(now)
            for consumer in self._consumers.values():
                self._concluded += consumer.acknowledge(now, at_once=at_once)
            if self._consuming is not None:
                self._consuming.transport.flush()

    def _answered(self, now: float) -> None:
        """Concludes what has been confirmed."""
        for batch in self._publishing.confirms.complete():
            if not isinstance(batch, _Settling):
                continue
            if batch.refusal is None:
                self._refused.stored(batch.item)
                self._conclude(batch.item)
            else:
                # What is stored already isn't sent again.
                again = msgspec.structs.replace(batch.item, publishes=tuple(batch.refused))
                self._refused.add(again, batch.refusal, now)

    def _publish_copies(self, item: Settled) -> None:
        batch = _Settling(len(item.publishes), item=item)
        for one in item.publishes:
            try:
                self._publishing.send(one, batch)
            except EncodeError:
                # Its publisher's headers are more than this broker takes in a frame.
                ours = {name: value for name, value in one.headers.items() if name.startswith(OWN_PREFIX)}
                try:
                    self._publishing.send(msgspec.structs.replace(one, headers=ours), batch)
                except EncodeError as error:
                    raise BrokerUnavailable(str(error)) from error

    def _conclude(self, item: Settled) -> None:
        consumer = self._consumers.get(item.tag >> Consumer.SHIFT)
        # Without a consumer it was no delivery, or its channel is closed and it is back in its queue.
        if consumer is None or consumer.conclude(item.tag, item.verb, time.monotonic()):
            self._concluded.append(item.tag)

    # Waiting

    def filenos(self) -> dict[int, bool]:
        return dict(self._watch(link) for link in self._links())

    def _watch(self, link: Any) -> tuple[int, bool]:
        # Remembered: whoever watches a connection that is lost has to know which descriptor it was.
        if link.connected:
            self._descriptors[id(link)] = link.sock.fileno()
        return self._descriptors[id(link)], bool(link.connected and link.unsent)

    def next_due(self) -> float:
        now = time.monotonic()
        due = min((consumer.acks.next_due for consumer in self._consumers.values()), default=float("inf"))
        return max(0.0, min(due, self._tick_at, self._refused.again_at) - now)

    def keep_alive(self) -> None:
        now = time.monotonic()
        if now < self._tick_at:
            return
        with self._watched():
            for link in self._links():
                link.pump()  # first what has come while nobody looked
                link.heartbeat_tick()
                link.transport.flush()
        self._tick_at = now + self._tick

    @property
    def _tick(self) -> float:
        return min((link.heartbeat or MOST_HEARTBEAT * 4) / 4 for link in self._links())

    def is_over(self) -> bool:
        return self._over

    @property
    def trouble(self) -> str | None:
        if self._refused.why is not None:
            return f"broker {self.broker}: {self._refused.why}"
        reason = self._link.blocked
        if reason is None:
            return self._publishing.trouble
        return f"broker {self.broker} takes no publishes now: {reason}"

    def _links(self) -> list[Any]:
        return [self._link] if self._consuming is None else [self._consuming, self._link]

    # Publishing

    def publish(self, outgoing: Sequence[Outgoing], patience: float = CONFIRM_TIMEOUT) -> list[BusworkerError | None]:
        with self._within(patience) as deadline:
            self._wait_for_the_end_of_an_alarm(deadline)
            found = self._publishing.publish(outgoing, self._watched, lambda: self._await(deadline))
        self._answered(time.monotonic())
        # One that is silent wouldn't answer a goodbye either. During an alarm it is only busy.
        self._over = self._over or (self._publishing.doubtful and self._link.blocked is None)
        return found

    def _wait_for_the_end_of_an_alarm(self, deadline: float) -> None:
        """What is sent while the broker reads nothing may be stored much later, when nobody counts on it any more."""
        with self._watched():
            self._link.pump()
        while self._link.blocked is not None:
            self._await(deadline)

    def _await(self, deadline: float) -> None:
        with self._watched():
            try:
                self._link.drain_events(timeout=max(0.0, min(deadline - time.monotonic(), self._tick)))
            except TimeoutError:
                if time.monotonic() >= deadline:
                    blocked = f": {self._link.blocked}" if self._link.blocked else ""
                    raise BrokerUnavailable(f"broker {self.broker} hasn't confirmed all in time{blocked}") from None
        self.keep_alive()

    def declare(self, patience: float | None = None) -> None:
        try:
            with self._within(patience):
                super().declare()
        except BrokerUnavailable:
            self._over = True
            raise

    @contextmanager
    def _within(self, patience: float | None) -> Generator[float]:
        """Waits meanwhile for no answer longer than until then."""
        deadline = float("inf") if patience is None else time.monotonic() + patience
        links = self._links()
        for link in links:
            link.until = deadline
        try:
            yield deadline
        finally:
            for link in links:
                link.until = float("inf")

    def forget(self) -> None:
        for link in self._links():
            link.forget()

    def close(self) -> None:
        for connection in self._connections:
            try:
                with translated(self.broker):
                    wire.close(connection, lost=self._over)
            except (BrokerUnavailable, ConfigurationError):
                pass  # the other side is gone: there is nothing left to close

    @contextmanager
    def _watched(self) -> Generator[None]:
        """Our errors instead of kombu's; after one only a new session goes on."""
        try:
            with translated(self.broker):
                yield
        except BrokerError:
            self._over = True
            raise
