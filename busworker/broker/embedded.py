"""A session on the engine: all of it on one kombu channel with transactions, so a settlement is atomic."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

from amqp.basic_message import Message as AmqpMessage
from amqp.exceptions import PreconditionFailed

from busworker.broker import topology, wire
from busworker.broker.connection import connect, translated
from busworker.broker.declarer import Declarer
from busworker.broker.session import CONFIRM_TIMEOUT, Counts, Session, Settled, Stored
from busworker.brokers import Broker
from busworker.errors import AlreadyStored, BrokerUnavailable, BusworkerError, ConfigurationError
from busworker.message import Delivery, Outgoing
from busworker.transports import store_exists

PAGE = 100
"""Messages of a queue that are looked at in one transaction."""


class EmbeddedSession(Session):
    """See `session.open_session`."""

    pushes = False

    def __init__(self, broker: Broker, *, claim_file: str | None = None, create: bool = True) -> None:
        if not create and not store_exists(broker.url):
            raise BrokerUnavailable(f"there is no store at {broker.url}: publish or start something first")
        self.broker = broker
        self._tags = itertools.count(1)
        self._held: dict[int, int] = {}
        self._arrived: list[Delivery] = []
        self._concluded: list[int] = []
        self._listened: list[str] = []
        self._connection = connect(broker, claim_file=claim_file)
        try:
            with translated(broker):
                self._channel: Any = wire.undecoded(self._connection.channel())
                self._channel.tx_select()
                self._declarer = Declarer(self._channel, topology.EMBEDDED)
        except BaseException:
            self.close()
            raise

    # Consuming

    def consume(self, queue: str, window: int) -> None:
        def arrive(raw: AmqpMessage) -> None:
            self._arrived.append(self._delivery(queue, raw))

        with translated(self.broker):
            self._channel.basic_consume(queue, callback=arrive)

    def listen(self, topic: str, window: int) -> None:
        with translated(self.broker):
            self._listened.append(self._declarer.tail(topic))
        self.consume(self._listened[-1], window)

    def missed(self) -> int | None:
        with translated(self.broker):
            return sum(int(self._channel.queue_dropped(queue)) for queue in self._listened)

    def fetch(self, window: int) -> list[Delivery]:
        with translated(self.broker):
            self._channel.basic_qos(0, window, True)
            try:
                self._connection.drain_events(timeout=0)  # claims what there is room for
            except TimeoutError:
                pass  # there is nothing
        arrived, self._arrived = self._arrived, []
        return arrived

    def rest(self) -> None:
        with translated(self.broker):
            wire.link(self._connection).rest()

    def submit(self, items: Sequence[Settled]) -> None:
        self.settle(items)
        self._concluded += [item.tag for item in items]

    def concluded(self) -> list[int]:
        concluded, self._concluded = self._concluded, []
        return concluded

    def settle(self, items: Sequence[Settled]) -> None:
        with translated(self.broker):
            self._transact(items)
        for item in items:
            self._held.pop(item.tag, None)

    def filenos(self) -> dict[int, bool]:
        return {int(wire.link(self._connection).fileno()): False}

    def next_due(self) -> float:
        return float(wire.link(self._connection).next_due())

    def keep_alive(self) -> None:
        pass  # there is nobody on the other side

    def is_over(self) -> bool:
        return bool(self._channel.store_replaced())

    def abandoned(self, queues: Sequence[str]) -> list[str]:
        with translated(self.broker):
            return list(self._channel.abandoned_claims(queues))

    def release(self, claim_file: str) -> None:
        with translated(self.broker):
            self._channel.release_claims(claim_file)

    # Publishing

    def publish(self, outgoing: Sequence[Outgoing], patience: float = CONFIRM_TIMEOUT) -> list[BusworkerError | None]:
        with translated(self.broker):
            repeated = set(self._transact([], outgoing))
        return [AlreadyStored(f"{one.id} is stored") if i in repeated else None for i, one in enumerate(outgoing)]

    # Looking

    def queues(self) -> list[str] | None:
        with translated(self.broker):
            return list(self._channel.queue_names())

    def routed(self, topic: str) -> bool | None:
        with translated(self.broker):
            queues: list[str] = self._channel.routes(topology.EXCHANGE, topic)
        return any(queue != topology.UNROUTED and not queue.startswith(topology.TAIL) for queue in queues)

    def counts(self, queue: str) -> Counts | None:
        with translated(self.broker):
            found = self._channel.queue_counts(queue)
        return None if found is None else Counts(*found)

    def consumers(self, queue: str) -> int:
        with translated(self.broker):
            return wire.consumers_if_exists(self._channel, queue) or 0

    def waiting(self, work_queue: str) -> int | None:
        with translated(self.broker):
            return sum(int(self._channel.count_routing_key(queue, work_queue)) for queue in topology.retry_queues())

    def head(self, queue: str) -> Delivery | None:
        return next(self.browse(queue, limit=1, newest_first=False), None)

    def browse(self, queue: str, *, limit: int | None = None, newest_first: bool = True) -> Generator[Delivery]:
        with translated(self.broker):
            yield from self._browse(queue, limit, newest_first=newest_first)

    def take(
        self, queue: str, wanted: Callable[[Delivery], bool], limit: int | None, size: int
    ) -> Generator[list[Delivery]]:
        with translated(self.broker), self._picking(queue, wanted) as found:
            meant = itertools.islice(filter(wanted, found), limit)
            while held := list(itertools.islice(meant, size)):
                yield held

    def holding(self, message_id: str) -> list[Stored] | None:
        with translated(self.broker):
            found = self._channel.find("message_id", message_id)
        return [Stored(wire.read_delivery(raw, 0, queue), held, due) for queue, raw, held, due in found]

    def stored_at(self, topic: str, message_id: str) -> float | None:
        with translated(self.broker):
            found: float | None = self._channel.published_once(_once(topic, message_id))
        return found

    # Removing

    def delete(self, queue: str) -> int | None:
        with translated(self.broker):
            try:
                return int(self._channel.queue_delete(queue, if_unused=True))
            except PreconditionFailed:
                return None

    def close(self) -> None:
        try:
            with translated(self.broker):
                self._connection.release()
        except (BrokerUnavailable, ConfigurationError):
            pass  # the store is gone: there is nothing left to close

    # Within

    def _delivery(self, queue: str, raw: AmqpMessage) -> Delivery:
        tag = next(self._tags)
        self._held[tag] = wire.info(raw)["delivery_tag"]
        return wire.read_delivery(raw, tag, queue)

    def _transact(self, items: Sequence[Settled], outgoing: Sequence[Outgoing] = ()) -> list[int]:
        channel = self._channel
        try:
            for one in outgoing:
                self._send(one)
            for item in items:
                for one in item.publishes:
                    self._send(one)
                if item.verb != "publish":
                    wire.conclude(channel, self._held[item.tag], item.verb)
            repeated: list[int] = channel.tx_commit()
        except BaseException:
            channel.tx_rollback()
            raise
        return repeated

    def _send(self, outgoing: Outgoing) -> None:
        exchange, properties = outgoing.exchange, outgoing.properties
        if outgoing.delay:
            self._declarer.delayed()
            milliseconds = str(max(round(outgoing.delay * 1000), 1))
            exchange, properties = topology.DELAYED, {**properties, "expiration": milliseconds}
        message = wire.message(outgoing, properties)
        if outgoing.once:
            once = _once(outgoing.routing_key, outgoing.id)
            self._channel.publish_once(message, exchange, outgoing.routing_key, once)
        else:
            self._channel.basic_publish(message, exchange, outgoing.routing_key, mandatory=True)

    def _browse(self, queue: str, limit: int | None, *, newest_first: bool) -> Iterator[Delivery]:
        cursor: int | None = None
        left = limit if limit is not None else -1
        while left:
            size = PAGE if left < 0 else min(PAGE, left)
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
        counts = self.counts(queue)
        there = counts.ready if counts is not None else 0
        seen = (one.tag for one in self._browse(queue, there, newest_first=False) if wanted(one))
        raws = (raw for cursor in seen if (raw := self._channel.pick(queue, cursor)) is not None)
        taken: list[int] = []
        try:
            yield self._noted(queue, raws, taken)
        finally:
            self.settle([Settled(tag, "return") for tag in taken if tag in self._held])

    def _noted(self, queue: str, raws: Iterable[Any], taken: list[int]) -> Iterator[Delivery]:
        for raw in raws:
            delivery = self._delivery(queue, raw)
            taken.append(delivery.tag)
            yield delivery


def _once(topic: str, message_id: str) -> bytes:
    """What tells the store that two messages with an id of their publisher's are the same."""
    return blake2b(f"{topic}\0{message_id}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
