"""One session with a broker: declare, fetch, settle, publish, browse. The same for every transport.

On the engine all of it runs on one kombu channel with transactions, so a settlement is atomic. On AMQP one connection
fetches and acknowledges and another publishes, because an alarm blocks a publishing connection with everything on it
(RabbitMQ, "Connections in Blocked State"). A session belongs to one thread and is not carried over a fork.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import kombu
import msgspec
from amqp.basic_message import Message as AmqpMessage

from busworker.broker import topology, wire
from busworker.broker.confirms import CONFIRM_TIMEOUT, Confirms
from busworker.broker.connection import CONNECT_TIMEOUT, connect, translated
from busworker.broker.declarer import Declarer
from busworker.brokers import Broker, parse
from busworker.errors import BrokerUnavailable, ConfigurationError
from busworker.message import Delivery, Outgoing
from busworker.transports import store_exists

RETURN_TIMEOUT = 1.0
"""Seconds to wait until what was looked at is back in its queue."""


class Settled(msgspec.Struct):
    """What becomes of a delivery: its publishes are stored, then it is acknowledged, or it is given back."""

    tag: int
    verb: Literal["ack", "return"]
    publishes: tuple[Outgoing, ...] = ()


class Counts(msgspec.Struct):
    """Messages of a queue: those that can be fetched, and those that somebody holds (None: can't be told)."""

    ready: int
    in_flight: int | None


class Session:
    """A session, connected.

    Args:
        url: the broker, or several with `;` between.
        claim_file: on the engine, the pool's scoreboard: claims are tied to its lock, and what a dead predecessor
            held comes back at once.
        create: whether an embedded store is made if it doesn't exist.
        patience: seconds that connecting to a broker may take.

    Raises:
        BrokerUnavailable: no broker answers, or there is no store.
        ConfigurationError: the URL is wrong or the broker refuses us.
    """

    def __init__(
        self, url: str, *, claim_file: str | None = None, create: bool = True, patience: float = CONNECT_TIMEOUT
    ) -> None:
        self._brokers = parse(url)
        self._claim_file = claim_file
        self._patience = patience
        if not create and self._brokers[0].embedded and not store_exists(self._brokers[0].url):
            raise BrokerUnavailable(f"there is no store at {self._brokers[0].url}: publish or start something first")
        self._tags = itertools.count(1)
        self._held: dict[int, tuple[Any, int]] = {}
        self._arrived: list[Delivery] = []
        self._connect()

    def _connect(self) -> None:
        self.broker, self._connection = self._first_reachable()
        try:
            self._open_channels()
        except BaseException:
            self.close()
            raise

    def _open_channels(self) -> None:
        with translated(self.broker):
            if self.broker.embedded:
                self._channel: Any = wire.undecoded(self._connection.channel())
                self._channel.tx_select()
                flavour = topology.EMBEDDED
            else:
                self._publishing = connect(self.broker, timeout=self._patience)
                self._channel = wire.undecoded(self._publishing.channel())
                self._confirms = Confirms(self._channel)
                flavour = _amqp_flavour(self.broker, self._connection)
            self._declarer = Declarer(self._channel, flavour)

    def _first_reachable(self) -> tuple[Broker, kombu.Connection]:
        for broker in self._brokers[:-1]:
            try:
                return broker, self._connected(broker)
            except BrokerUnavailable:
                continue
        return self._brokers[-1], self._connected(self._brokers[-1])

    def _connected(self, broker: Broker) -> kombu.Connection:
        return connect(broker, claim_file=self._claim_file, timeout=self._patience)

    # Topology

    def declare(self) -> None:
        """Declares what publishers and consumers need. Idempotent."""
        with translated(self.broker):
            self._declarer.base()

    def declare_work(self, topic: str, service: str, channel: str) -> str:
        """Declares the queues of a subscription. Idempotent.

        Returns:
            The name of the work queue.
        """
        with translated(self.broker):
            return self._declarer.work(topic, service, channel)

    def declare_retry(self, delay: int) -> None:
        """Declares the retry queue of a step of the ladder, once a session. 0 needs none."""
        with translated(self.broker):
            self._declarer.retry(delay)

    # Consuming

    def consume(self, queue: str, prefetch: int) -> None:
        """Starts deliveries of a queue; on AMQP up to `prefetch` unsettled ones, on the engine see `fetch`."""
        with translated(self.broker):
            channel = self._channel if self.broker.embedded else wire.undecoded(self._connection.channel())
            if not self.broker.embedded:
                channel.basic_qos(0, prefetch, False)

            def arrive(raw: AmqpMessage) -> None:
                self._arrived.append(self._delivery(channel, queue, raw))

            channel.basic_consume(queue, callback=arrive)

    def fetch(self, window: int) -> list[Delivery]:
        """What has arrived, without waiting; on the engine claims so much that at most `window` are unsettled.

        Raises:
            BrokerUnavailable: the connection is lost; what is unsettled comes back to whoever consumes next.
        """
        with translated(self.broker):
            if self.broker.embedded:
                self._channel.basic_qos(0, window, True)
            self._drain(self._connection)
        arrived, self._arrived = self._arrived, []
        return arrived

    def settle(self, items: Sequence[Settled]) -> None:
        """Settles deliveries: everything each publishes is stored before it is acknowledged.

        Raises:
            BrokerUnavailable: on the engine nothing was done, and calling again is right. On AMQP the copies may be
                stored, and those not acknowledged come back after a reconnect.
        """
        with translated(self.broker):
            if self.broker.embedded:
                self._transact(items)
            else:
                self._publish_confirmed([outgoing for item in items for outgoing in item.publishes])
                for item in items:
                    channel, tag = self._held[item.tag]
                    wire.conclude(channel, tag, item.verb)
        for item in items:
            del self._held[item.tag]

    def filenos(self) -> list[int]:
        """What becomes readable when something arrives."""
        if self.broker.embedded:
            return [wire.link(self._connection).fileno()]
        return [wire.link(connection).sock.fileno() for connection in (self._connection, self._publishing)]

    def next_due(self) -> float:
        """Seconds after which `fetch` is worth calling even if nothing became readable."""
        return float(wire.link(self._connection).next_due()) if self.broker.embedded else 1.0

    def is_over(self) -> bool:
        """Whether only a new session can go on, after an error: on AMQP always, on the engine if the store is gone."""
        return not self.broker.embedded or bool(self._channel.store_replaced())

    def abandoned(self, queues: Sequence[str]) -> list[str]:
        """On the engine: claim files of pools with claims on these queues and without any process left."""
        with translated(self.broker):
            return list(self._channel.abandoned_claims(queues)) if self.broker.embedded else []

    def release(self, claim_file: str) -> None:
        """Gives back what an abandoned pool had claimed, marked as redelivered."""
        with translated(self.broker):
            self._channel.release_claims(claim_file)

    # Publishing

    def publish(self, outgoing: Sequence[Outgoing], patience: float = CONFIRM_TIMEOUT) -> None:
        """Stores messages: all are confirmed when it returns, in their order. Waits `patience` seconds for confirms.

        Raises:
            BrokerUnavailable: on the engine none is stored; on AMQP some may be.
        """
        with translated(self.broker):
            if self.broker.embedded:
                self._transact([], outgoing)
            else:
                self._publish_confirmed(outgoing, patience)

    # Looking

    def queues(self) -> list[str] | None:
        """The names of all queues; None where a client can't list them (AMQP)."""
        with translated(self.broker):
            return list(self._channel.queue_names()) if self.broker.embedded else None

    def routed(self, topic: str) -> bool | None:
        """Whether any queue gets what is published to a topic; None where it can't be told."""
        if not self.broker.embedded:
            return None
        with translated(self.broker):
            return list(self._channel.routes(topology.EXCHANGE, topic)) not in ([], [topology.UNROUTED])

    def counts(self, queue: str) -> Counts | None:
        """How many messages a queue holds; None if there is no such queue."""
        with translated(self.broker):
            if self.broker.embedded:
                found = self._channel.queue_counts(queue)
                return None if found is None else Counts(*found)
            with self._scratch() as channel:
                try:
                    return Counts(int(channel.queue_declare(queue, passive=True).message_count), None)
                except self._connection.channel_errors:
                    return None

    def waiting(self, work_queue: str) -> int | None:
        """Messages of a work queue that wait in retry queues; None where it can't be told."""
        if not self.broker.embedded:
            return None
        with translated(self.broker):
            return sum(int(self._channel.count_routing_key(queue, work_queue)) for queue in topology.retry_queues())

    def browse(self, queue: str, *, limit: int | None = None, newest_first: bool = True) -> Iterator[Delivery]:
        """Looks at the messages of a queue; their order, content and counts stay. AMQP always reads from the head."""
        with translated(self.broker):
            if self.broker.embedded:
                yield from self._browse_store(queue, limit, newest_first=newest_first)
            else:
                with self._getting(queue) as got:
                    yield from itertools.islice(got, limit)

    def take(self, queue: str, wanted: Callable[[Delivery], bool], limit: int, size: int) -> Generator[list[Delivery]]:
        """Holds messages of a queue that are wanted, at most `limit`, in lists of `size`; the rest stays.

        Settle a list by its tags before the next: what isn't settled when the iterator ends or is closed goes back.
        """
        look = partial(self._picking, queue, wanted) if self.broker.embedded else partial(self._getting, queue)
        with translated(self.broker), look() as found:
            meant = itertools.islice(filter(wanted, found), limit)
            while held := list(itertools.islice(meant, size)):
                yield held

    def close(self) -> None:
        """Closes the connections; what is unsettled goes back. Closing a lost session is fine."""
        for connection in (self._connection, getattr(self, "_publishing", None)):
            if connection is not None:
                try:
                    with translated(self.broker):
                        wire.limit_goodbye(connection)
                        connection.release()
                except (BrokerUnavailable, ConfigurationError):
                    pass  # the other side is gone: there is nothing left to close

    # Within

    def _delivery(self, channel: Any, queue: str, raw: AmqpMessage) -> Delivery:
        tag = next(self._tags)
        self._held[tag] = (channel, wire.info(raw)["delivery_tag"])
        return wire.read_delivery(raw, tag, queue)

    def _transact(self, items: Sequence[Settled], outgoing: Sequence[Outgoing] = ()) -> None:
        channel = self._channel
        try:
            for one in outgoing:
                self._send(one)
            for item in items:
                for one in item.publishes:
                    self._send(one)
                wire.conclude(channel, self._held[item.tag][1], item.verb)
            channel.tx_commit()
        except BaseException:
            channel.tx_rollback()
            raise

    def _publish_confirmed(self, outgoing: Sequence[Outgoing], patience: float = CONFIRM_TIMEOUT) -> None:
        if not outgoing:
            return
        for one in outgoing:
            self._send(one)
            self._confirms.sent()
        self._confirms.wait(self._publishing, patience)

    def _send(self, outgoing: Outgoing) -> None:
        exchange, properties = outgoing.exchange, outgoing.properties
        if outgoing.delay:
            exchange, properties = self._delayed(outgoing)
        message = wire.message(outgoing, properties)
        self._channel.basic_publish(message, exchange, outgoing.routing_key, mandatory=True)

    def _delayed(self, outgoing: Outgoing) -> tuple[str, dict[str, object]]:
        if not self.broker.embedded:
            raise ConfigurationError("publish(delay=) isn't available on amqp:// yet: publish without a delay")
        self._declarer.delayed()
        milliseconds = str(max(round((outgoing.delay or 0) * 1000), 1))
        return topology.DELAYED, {**outgoing.properties, "expiration": milliseconds}

    def _drain(self, connection: kombu.Connection) -> None:
        # Once when embedded: a drain claims what there is room for. On AMQP until the socket has nothing more.
        try:
            connection.drain_events(timeout=0)
            while not self.broker.embedded:
                connection.drain_events(timeout=0)
        except TimeoutError:
            return

    def _browse_store(self, queue: str, limit: int | None, *, newest_first: bool) -> Iterator[Delivery]:
        page = 100
        cursor: int | None = None
        left = limit if limit is not None else -1
        while left:
            size = page if left < 0 else min(page, left)
            raws = self._channel.browse(queue, cursor=cursor, limit=size, newest_first=newest_first)
            for raw in raws:
                cursor = int(wire.info(raw)["cursor"])
                yield wire.read_delivery(raw, cursor, queue)
            left -= len(raws) if left > 0 else 0
            if len(raws) < size:
                return

    @contextmanager
    def _picking(self, queue: str, wanted: Callable[[Delivery], bool]) -> Generator[Iterator[Delivery]]:
        # What somebody else has taken since it was seen can't be picked, and is passed over.
        seen = (one.tag for one in self._browse_store(queue, None, newest_first=False) if wanted(one))
        raws = (raw for cursor in seen if (raw := self._channel.pick(queue, cursor)) is not None)
        taken: list[int] = []
        try:
            yield self._noted(self._channel, queue, raws, taken)
        finally:
            self.settle([Settled(tag, "return") for tag in taken if tag in self._held])

    @contextmanager
    def _getting(self, queue: str) -> Generator[Iterator[Delivery]]:
        # Closing the channel gives everything back in its place; a requeue would move it to the back.
        taken: list[int] = []
        with self._scratch() as channel:
            got = (channel.basic_get(queue) for _ in range(wire.ready(channel, queue)))
            try:
                yield self._noted(channel, queue, itertools.takewhile(lambda raw: raw is not None, got), taken)
            finally:
                returned = [tag for tag in taken if self._held.pop(tag, None)]
                expected = wire.ready(channel, queue) + len(returned)
        if returned:
            self._wait_returned(queue, expected)

    def _noted(self, channel: Any, queue: str, raws: Iterable[Any], taken: list[int]) -> Iterator[Delivery]:
        for raw in raws:
            delivery = self._delivery(channel, queue, raw)
            taken.append(delivery.tag)
            yield delivery

    def _wait_returned(self, queue: str, expected: int) -> None:
        # A quorum queue learns of the closed channel a few milliseconds later (tried on 3.10): who looks again at once
        # would find nothing. Somebody else may have fetched them meanwhile, so not for ever.
        deadline = time.monotonic() + RETURN_TIMEOUT
        with self._scratch() as channel:
            while wire.ready(channel, queue) < expected and time.monotonic() < deadline:
                time.sleep(0.002)

    def _scratch(self) -> Any:
        return wire.undecoded(self._connection.channel())


def _amqp_flavour(broker: Broker, connection: kombu.Connection) -> topology.Flavour:
    version = str(wire.link(connection).server_properties.get("version", "0"))
    major = version.split(".", 1)[0]
    return topology.Flavour(broker.queue_type, unlimited_delivery=major.isdigit() and int(major) >= 4)
