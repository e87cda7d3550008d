"""An AMQP channel on the embedded store, with the method names of py-amqp's, so that one session serves both."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from amqp.exceptions import NotFound, PreconditionFailed, error_for_code
from amqp.protocol import queue_declare_ok_t
from kombu.transport.base import StdChannel, to_rabbitmq_queue_arguments

from busworker.transports import messages
from busworker.transports.consuming import Consumer, Prefetch, wanted
from busworker.transports.engine.failures import MissingEntity, Unroutable
from busworker.transports.engine.records import Batch, Delivery

if TYPE_CHECKING:
    from busworker.transports.connection import Connection

_ids = itertools.count(1)


class _Held(msgspec.Struct):
    """A delivered message that isn't settled; `consumer` is None if it was got or picked."""

    seq: int
    consumer: Consumer | None


class Channel(StdChannel):
    """A channel.

    Guarantees: outside a transaction each publish and each settlement is durable when its method returns. After
    `tx_select` they are collected, and `tx_commit` does all of them in one transaction of the store or none.
    Deliveries come from `Connection.drain_events`. For one thread at a time.
    """

    Message = messages.Message

    def __init__(self, connection: Connection) -> None:
        self.connection: Connection | None = connection
        self.channel_id = next(_ids)
        self.events: defaultdict[str, set[Callable[..., object]]] = defaultdict(set)
        self.no_ack_consumers: set[str] = set()
        self.auto_decode = False
        self._store = connection.store
        self._tags = itertools.count(1)
        self.forget()

    def forget(self) -> None:
        """Starts with nothing consumed, delivered or begun: when made, and in a forked child."""
        self._consumers: dict[str, Consumer] = {}
        self._arrived: deque[tuple[Consumer, Delivery]] = deque()
        self._unacked: dict[int, _Held] = {}
        self._prefetch = Prefetch()
        self._transaction: Batch | None = None
        self._settled: list[int] = []

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self.connection is not None

    def close(self) -> None:
        """Ends the consumers; what is unacknowledged goes back, marked as redelivered. Closing twice is fine."""
        connection, self.connection = self.connection, None
        if connection is None:
            return
        connection.channels.remove(self)
        held = [one.seq for one in self._unacked.values()] + [delivery.seq for _, delivery in self._arrived]
        consumers = list(self._consumers.values())
        self.forget()
        for consumer in consumers:
            connection.unlisten(consumer.queue)
        if held:
            self._store.apply(Batch(requeued=held))

    # Exchanges and queues

    def exchange_declare(
        self,
        exchange: str,
        type: str = "direct",
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Mapping[str, object] | None = None,
    ) -> None:
        """Declares an exchange, or with `passive` asks whether it exists. Every exchange is durable.

        Raises:
            TopologyMismatch: it exists with another type or other arguments.
            ConfigurationError: there is no such type.
            amqp.exceptions.NotFound: `passive`, and it doesn't exist.
        """
        if passive:
            with _not_found():
                self._store.exchange_type(exchange)
        else:
            self._store.declare_exchange(exchange, type, arguments or {})

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Removes an exchange with its bindings."""
        self._store.delete_exchange(exchange)

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Mapping[str, object] | None = None,
    ) -> Any:
        """Declares a queue, or with `passive` asks for its counts. Every queue is durable; an exclusive one may be used
        by all, but goes with its last consumer, as an auto-delete one does.

        Raises:
            TopologyMismatch: it exists with other arguments.
            amqp.exceptions.NotFound: `passive`, and it doesn't exist.
        """
        with _not_found():
            if not passive:
                queue = self._store.declare_queue(queue, arguments or {}, auto_delete=auto_delete or exclusive)
            return queue_declare_ok_t(queue, self._store.counts(queue)[0], self._store.consumers(queue))

    def prepare_queue_arguments(self, arguments: dict[str, Any], **options: Any) -> Any:
        """Kombu's options of a queue as arguments."""
        return to_rabbitmq_queue_arguments(arguments, **options)

    def queue_bind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: Mapping[str, object] | None = None,
    ) -> None:
        """Binds a queue to an exchange. The default exchange has every queue by its name already."""
        if exchange:
            with _not_found():
                self._store.bind(queue, exchange, routing_key)

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        nowait: bool = False,
        arguments: Mapping[str, object] | None = None,
    ) -> None:
        """Takes a binding away; fine if there is none."""
        with _not_found():
            self._store.unbind(queue, exchange, routing_key)

    def queue_delete(
        self, queue: str = "", if_unused: bool = False, if_empty: bool = False, nowait: bool = False
    ) -> int:
        """Removes a queue with its messages, and returns how many were ready.

        Raises:
            amqp.exceptions.PreconditionFailed: it is in use, or not empty, and that was a condition.
        """
        deleted = self._store.delete_queue(queue, if_unused=if_unused, if_empty=if_empty)
        if deleted is None:
            raise PreconditionFailed(f"queue {queue!r} is in use or not empty")
        return deleted

    def queue_purge(self, queue: str = "", nowait: bool = False) -> int:
        """Deletes the ready messages of a queue and returns their number."""
        with _not_found():
            return self._store.purge_queue(queue)

    # Publishing

    def prepare_message(
        self,
        body: bytes | str,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> Any:
        """A message for `basic_publish`."""
        envelope = {
            "priority": priority,
            "content_type": content_type,
            "content_encoding": content_encoding,
            "application_headers": headers,
        }
        return messages.prepared(body, {**envelope, **(properties or {})})

    def message_to_python(self, raw_message: Any) -> messages.Message:
        """A raw message in kombu's form."""
        return self.Message(raw_message, channel=self)

    def basic_publish(
        self,
        message: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
    ) -> None:
        """Publishes a message. If it is mandatory and reaches no queue, the `basic_return` events are told.

        Raises:
            amqp.exceptions.ChannelError: no queue was reached, and nobody was there to be told (code 312).
            amqp.exceptions.NotFound: the exchange doesn't exist.
            BrokerUnavailable: the store can't be written now; it isn't published.
        """
        outgoing = messages.outgoing(message, exchange, routing_key, mandatory)
        if self._transaction is not None:
            self._transaction.publishes.append(outgoing)
            return
        try:
            with _not_found():
                self._store.apply(Batch(publishes=[outgoing]))
        except Unroutable as error:
            if not self._returned(error, message):
                raise _no_route(error) from error

    def confirm_select(self, nowait: bool = False) -> None:
        """Accepted: a publish is always confirmed by returning."""

    # Consuming

    def basic_qos(self, prefetch_size: int, prefetch_count: int, a_global: bool) -> None:
        """Sets how many unacknowledged messages there may be, from now on, for running consumers too.

        Args:
            prefetch_size: not used.
            prefetch_count: 0 for any number.
            a_global: False: for each consumer. True: for the channel with all its consumers, which then take turns,
                and get everything they have room for in one `drain_events`.
        """
        self._prefetch = Prefetch(prefetch_count, bool(a_global))

    def basic_consume(  # noqa: PLR0913
        self,
        queue: str = "",
        consumer_tag: str = "",
        no_local: bool = False,
        no_ack: bool = False,
        exclusive: bool = False,
        nowait: bool = False,
        callback: Callable[[Any], object] | None = None,
        arguments: Mapping[str, object] | None = None,
        on_cancel: Callable[[str], object] | None = None,
    ) -> str:
        """Starts a consumer and returns its tag. With `no_ack` a message is done once its callback has returned."""
        tag = consumer_tag or f"ctag{self.channel_id}.{next(_ids)}"
        with _not_found():
            self._open().listen(queue)
        self._consumers[tag] = Consumer(tag, queue, no_ack, callback or _ignore)
        if no_ack:
            self.no_ack_consumers.add(tag)
        return tag

    def basic_cancel(self, consumer_tag: str, nowait: bool = False) -> str:
        """Ends a consumer; what it was given stays unacknowledged. Fine if there is none."""
        consumer = self._consumers.pop(consumer_tag, None)
        self.no_ack_consumers.discard(consumer_tag)
        if consumer is not None:
            waiting = [delivery.seq for other, delivery in self._arrived if other is consumer]
            self._arrived = deque(pair for pair in self._arrived if pair[0] is not consumer)
            if waiting:
                self._store.apply(Batch(requeued=waiting))
            self._open().unlisten(consumer.queue)
        return consumer_tag

    def basic_get(self, queue: str = "", no_ack: bool = False) -> Any:
        """The oldest ready message of a queue; None if there is none."""
        with _not_found():
            self._store.counts(queue)
        claimed = self._store.claim([(queue, 1)], 1)
        if not claimed:
            return None
        if no_ack:
            self._store.apply(Batch(acknowledged=[claimed[0].seq]))
            return self._raw(claimed[0], next(self._tags))
        return self._hand_out(claimed[0], None)

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """Deletes a delivered message, with `multiple` all up to it (0: all).

        Raises:
            amqp.exceptions.PreconditionFailed: there is no such unsettled delivery on this channel.
            BrokerUnavailable: the store can't be written now; calling again is right.
        """
        self._settle(self._named(delivery_tag, multiple), "acknowledged")

    def basic_reject(self, delivery_tag: int, requeue: bool) -> None:
        """Gives a delivered message back to its place, or takes it out of the queue to the dead-letter exchange.

        Raises:
            amqp.exceptions.PreconditionFailed: there is no such unsettled delivery on this channel.
            BrokerUnavailable: the store can't be written now; calling again is right.
        """
        self._settle(self._named(delivery_tag, multiple=False), "requeued" if requeue else "rejected")

    def basic_recover(self, requeue: bool = True) -> None:
        """Gives back everything that is unacknowledged."""
        self._settle([tag for tag in self._unacked if tag not in self._settled], "requeued")

    def flow(self, active: bool) -> None:
        """Accepted; consumers are held back by not draining."""

    # Transactions

    def tx_select(self) -> None:
        """From now on publishes and settlements wait for `tx_commit`."""
        self._transaction = self._transaction or Batch()

    def tx_commit(self) -> None:
        """Does everything since the last commit, in one transaction.

        Raises:
            amqp.exceptions.ChannelError: a mandatory message reaches no queue (code 312; AMQP would have done the
                rest), or an exchange doesn't exist. Nothing was done.
            BrokerUnavailable: nothing was done. In both cases all is kept: commit again, or roll back.
        """
        batch = self._begun()
        try:
            with _not_found():
                self._store.apply(batch)
        except Unroutable as error:
            raise _no_route(error) from error
        self._forget_tags(self._settled)
        self._transaction, self._settled = Batch(), []

    def tx_rollback(self) -> None:
        """Forgets everything since the last commit; the messages to be settled are unacknowledged still."""
        self._begun()
        self._transaction, self._settled = Batch(), []

    # Beyond AMQP

    def browse(
        self, queue: str, *, cursor: int | None = None, limit: int = 100, newest_first: bool = False
    ) -> list[Any]:
        """A page of a queue's ready messages, without claiming them; none if there is no such queue.

        Args:
            queue: its name.
            cursor: `delivery_info["cursor"]` of the last message of the page before; None begins.
            limit: how many at most.
            newest_first: from the end of the queue.
        """
        found = self._store.browse(queue, cursor, limit, newest_first=newest_first)
        return [messages.raw_message(delivery, self, {}) for delivery in found]

    def pick(self, queue: str, cursor: int) -> Any:
        """Claims a message that `browse` showed, to be settled as a delivery; None if it isn't ready any more."""
        with _not_found():
            delivery = self._store.pick(queue, cursor)
        return None if delivery is None else self._hand_out(delivery, None)

    def queue_counts(self, queue: str) -> tuple[int, int] | None:
        """The number of ready and of claimed messages; None if there is no such queue."""
        try:
            return self._store.counts(queue)
        except MissingEntity:
            return None

    def count_routing_key(self, queue: str, routing_key: str) -> int:
        """The number of a queue's messages with a routing key; 0 if there is no such queue."""
        return self._store.count_routing_key(queue, routing_key)

    def queue_names(self) -> list[str]:
        """The names of all queues, sorted."""
        return self._store.queue_names()

    def routes(self, exchange: str, routing_key: str) -> list[str]:
        """The queues that a message would reach."""
        with _not_found():
            return self._store.routes(exchange, routing_key)

    def abandoned_claims(self, queues: Sequence[str]) -> list[str]:
        """Claim files given by `claim_file` that nobody holds although messages of these queues are claimed by them."""
        return self._store.abandoned(queues)

    def release_claims(self, path: str) -> None:
        """Gives back what is claimed by such a file, marked as redelivered."""
        self._store.release(path)

    # For the connection

    def has_more(self) -> bool:
        """Whether `deliver` would find something without anybody being woken."""
        if self._arrived:
            return True
        if not self._room():
            return False
        return any(consumer.more and self._prefetch.room_of(consumer) for consumer in self._consumers.values())

    def deliver(self) -> bool:
        """Calls back with what has arrived, after claiming if nothing has; says whether there was anything."""
        if not self._arrived:
            self._claim()
        count = len(self._arrived) if self._prefetch.whole_channel else min(1, len(self._arrived))
        done: list[int] = []
        try:
            for _ in range(count):
                self._call_back(done)
        finally:
            if done:
                self._store.apply(Batch(acknowledged=done))
        return bool(count)

    def _call_back(self, done: list[int]) -> None:
        if not self._arrived:
            return  # a callback has cancelled its consumer
        consumer, delivery = self._arrived.popleft()
        if consumer.no_ack:
            done.append(delivery.seq)
            consumer.held -= 1
            raw = self._raw(delivery, next(self._tags), consumer.tag)
        else:
            raw = self._hand_out(delivery, consumer)
        consumer.callback(raw)

    def _claim(self) -> None:
        room = self._room()
        queues = wanted(self._consumers.values(), self._prefetch) if room else []
        claimed = self._store.claim(queues, room) if queues else []
        got = Counter(delivery.queue for delivery in claimed)
        for queue, most in queues:
            more = len(claimed) == room or got[queue] >= most
            for consumer in self._consumers.values():
                if consumer.queue == queue:
                    consumer.more = more
        self._assign(claimed)
        self._take_turns()

    def _assign(self, claimed: list[Delivery]) -> None:
        takers: dict[str, list[Consumer]] = {}
        for consumer in self._consumers.values():
            takers.setdefault(consumer.queue, []).append(consumer)
        for delivery in claimed:
            consumer = min(takers[delivery.queue], key=_held)
            consumer.held += 1
            self._arrived.append((consumer, delivery))

    def _take_turns(self) -> None:
        # The queue asked first this time is asked last the next.
        if len(self._consumers) > 1:
            first = next(iter(self._consumers))
            self._consumers[first] = self._consumers.pop(first)

    def _room(self) -> int:
        return self._prefetch.room(len(self._unacked) + len(self._arrived))

    def _hand_out(self, delivery: Delivery, consumer: Consumer | None) -> Any:
        tag = next(self._tags)
        self._unacked[tag] = _Held(delivery.seq, consumer)
        return self._raw(delivery, tag, consumer.tag if consumer else None)

    def _raw(self, delivery: Delivery, tag: int, consumer_tag: str | None = None) -> Any:
        return messages.raw_message(delivery, self, {"delivery_tag": tag, "consumer_tag": consumer_tag})

    def _named(self, tag: int, multiple: bool) -> list[int]:
        if not multiple:
            tags = [tag] if tag in self._unacked else []
        else:
            tags = [held for held in self._unacked if not tag or held <= tag]
        open_tags = [held for held in tags if held not in self._settled]
        if not open_tags and not (multiple and not tag):
            raise PreconditionFailed(f"unknown delivery tag {tag}")
        return open_tags

    def _settle(self, tags: list[int], how: str) -> None:
        batch = Batch() if self._transaction is None else self._transaction
        getattr(batch, how).extend(self._unacked[tag].seq for tag in tags)
        if self._transaction is not None:
            self._settled += tags
            return
        self._store.apply(batch)
        self._forget_tags(tags)

    def _forget_tags(self, tags: list[int]) -> None:
        for tag in tags:
            held = self._unacked.pop(tag)
            if held.consumer is not None:
                held.consumer.held -= 1

    def _begun(self) -> Batch:
        if self._transaction is None:
            raise PreconditionFailed("the channel isn't transactional: call tx_select first")
        return self._transaction

    def _open(self) -> Connection:
        if self.connection is None:
            raise PreconditionFailed("the channel is closed")
        return self.connection

    def _returned(self, error: Unroutable, message: Any) -> bool:
        listeners = list(self.events["basic_return"])
        for listener in listeners:
            listener(_no_route(error), error.exchange, error.routing_key, message)
        return bool(listeners)


def _no_route(error: Unroutable) -> Exception:
    found: Exception = error_for_code(312, str(error), (60, 50), PreconditionFailed)
    return found


def _held(consumer: Consumer) -> int:
    return consumer.held


def _ignore(message: object) -> None:
    """Stands in for a callback that wasn't given."""


@contextmanager
def _not_found() -> Iterator[None]:
    try:
        yield
    except MissingEntity as error:
        raise NotFound(str(error)) from error
