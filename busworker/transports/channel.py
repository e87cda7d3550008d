"""An AMQP channel on the embedded store, with the method names of py-amqp's, so that one session serves both."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from amqp.exceptions import ChannelError, PreconditionFailed, RecoverableConnectionError

from busworker.transports import messages
from busworker.transports.consuming import Consumer, Prefetch
from busworker.transports.declaring import DeclaringChannel, missing_as_not_found
from busworker.transports.deliveries import Deliveries
from busworker.transports.engine.failures import MissingEntity, Unroutable
from busworker.transports.engine.records import Batch, Delivery

if TYPE_CHECKING:
    from busworker.transports.connection import Connection

_ids = itertools.count(1)

NO_ROUTE = 312
"""AMQP 0-9-1, section 1.2.1: "the exchange cannot route a message"."""


class Channel(DeclaringChannel):
    """A channel.

    Guarantees: outside a transaction each publish and each settlement is durable when its method returns. After
    `tx_select` they are collected, and `tx_commit` does all of them in one transaction of the store or none.
    Deliveries come from `Connection.drain_events`. For one thread at a time.
    """

    Message = messages.Message
    auto_decode = True
    """Whether bodies of messages with a `content_encoding` come as text, as from py-amqp."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.store)
        self.connection: Connection | None = connection
        self.channel_id = next(_ids)
        self.events: defaultdict[str, set[Callable[..., object]]] = defaultdict(set)
        self.no_ack_consumers: Any = set()
        self._deliveries = Deliveries(connection.store)
        self._transaction: Batch | None = None

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
        consumers, held = list(self._deliveries.consumers.values()), self._deliveries.all_seqs()
        self.forget()
        for consumer in consumers:
            connection.unlisten(consumer.queue)
        if held:
            self._store.apply(Batch(requeued=held))

    def forget(self) -> None:
        """Forgets what is consumed, delivered and begun: when closed, and in a forked child, whose it isn't."""
        self._deliveries = Deliveries(self._store)
        self._transaction = None if self._transaction is None else Batch()

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
            self._apply(Batch(publishes=[outgoing]))
        except ChannelError as error:
            if error.reply_code != NO_ROUTE or not self.events["basic_return"]:
                raise
            for listener in list(self.events["basic_return"]):
                listener(error, exchange, routing_key, message)

    def publish_once(self, message: Any, exchange: str, routing_key: str, once: bytes) -> None:
        """Within a transaction: publishes a message, mandatory, unless one with the same `once` was stored lately."""
        self._begun().publishes.append(messages.outgoing(message, exchange, routing_key, True, once))

    def confirm_select(self, nowait: bool = False) -> None:
        """Accepted; a publish that has returned is confirmed anyway."""

    # Consuming

    def basic_qos(self, prefetch_size: int, prefetch_count: int, a_global: bool) -> None:
        """Sets how many unacknowledged messages there may be, from now on, for running consumers too.

        Args:
            prefetch_size: not used.
            prefetch_count: 0 for any number.
            a_global: False: for each consumer. True: for the channel with all its consumers, which then take turns,
                and get everything they have room for in one `drain_events`.
        """
        self._deliveries.prefetch = Prefetch(prefetch_count, bool(a_global))

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
        """Starts a consumer and returns its tag. With `no_ack` a message is done once its callback was called.

        Raises:
            amqp.exceptions.NotFound: there is no such queue.
            amqp.exceptions.PreconditionFailed: the tag is taken.
        """
        tag = consumer_tag or f"ctag{self.channel_id}.{next(_ids)}"
        if tag in self._deliveries.consumers:
            raise PreconditionFailed(f"consumer tag {tag!r} is taken")
        with missing_as_not_found():
            self._open().listen(queue)
        self._deliveries.consumers[tag] = Consumer(tag, queue, no_ack, callback or _ignore)
        if no_ack:
            self.no_ack_consumers.add(tag)
        return tag

    def basic_cancel(self, consumer_tag: str, nowait: bool = False) -> str:
        """Ends a consumer; what it was given stays unacknowledged. Fine if there is none."""
        consumer = self._deliveries.consumers.pop(consumer_tag, None)
        self.no_ack_consumers.discard(consumer_tag)
        if consumer is not None:
            unseen = self._deliveries.take_arrived(consumer)
            if unseen:
                self._store.apply(Batch(requeued=unseen))
            self._open().unlisten(consumer.queue)
        return consumer_tag

    def basic_get(self, queue: str = "", no_ack: bool = False) -> Any:
        """The oldest ready message of a queue; None if there is none.

        Raises:
            amqp.exceptions.NotFound: there is no such queue.
        """
        with missing_as_not_found():
            claimed = self._store.claim([(queue, 1)], 1)
            if not claimed:
                self._store.counts(queue)  # raises if there is no such queue
                return None
        raw = self._raw(claimed[0], None, no_ack)
        if no_ack:
            self._store.apply(Batch(acknowledged=[claimed[0].seq]))
        return raw

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """Deletes a delivered message, with `multiple` all up to it (0: all).

        Raises:
            amqp.exceptions.PreconditionFailed: there is no such unsettled delivery on this channel.
            BrokerUnavailable: the store can't be written now; calling again is right.
        """
        if self._transaction is not None and not multiple:
            self._transaction.acknowledged.append(self._deliveries.settle_one(delivery_tag))
        else:
            self._settle(self._deliveries.named(delivery_tag, multiple=multiple), "acknowledged")

    def basic_reject(self, delivery_tag: int, requeue: bool) -> None:
        """Gives a delivered message back to its place, or takes it out of the queue to the dead-letter exchange.

        Raises:
            amqp.exceptions.PreconditionFailed: there is no such unsettled delivery on this channel.
            BrokerUnavailable: the store can't be written now; calling again is right.
        """
        tags = self._deliveries.named(delivery_tag, multiple=False)
        self._settle(tags, "requeued" if requeue else "rejected")

    def basic_recover(self, requeue: bool = True) -> None:
        """Gives back everything that is unacknowledged."""
        self._settle(list(self._deliveries.unacked), "requeued")

    def flow(self, active: bool) -> None:
        """Accepted; consumers are held back by not draining."""

    # Transactions

    def tx_select(self) -> None:
        """From now on publishes and settlements wait for `tx_commit`."""
        self._transaction = self._transaction or Batch()

    def tx_commit(self) -> list[int]:
        """Does everything since the last commit, in one transaction.

        Returns:
            Which of the publishes, by their number from 0, were to be stored once and had been before.

        Raises:
            amqp.exceptions.ChannelError: a mandatory message reaches no queue (code 312; AMQP would have done the
                rest), or an exchange doesn't exist. Nothing was done.
            BrokerUnavailable: nothing was done. In both cases all is kept: commit again, or roll back.
        """
        repeated = self._apply(self._begun())
        self._deliveries.commit()
        self._transaction = Batch()
        return repeated

    def tx_rollback(self) -> None:
        """Forgets everything since the last commit; the messages to be settled are unacknowledged still."""
        self._begun()
        self._deliveries.rollback()
        self._transaction = Batch()

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
        return [messages.raw_message(delivery, self, None, None) for delivery in found]

    def pick(self, queue: str, cursor: int) -> Any:
        """Claims a message that `browse` showed, to be settled as a delivery; None if it isn't ready any more."""
        with missing_as_not_found():
            delivery = self._store.pick(queue, cursor)
        return None if delivery is None else self._raw(delivery, None, no_ack=False)

    def queue_counts(self, queue: str) -> tuple[int, int] | None:
        """The number of ready and of claimed messages; None if there is no such queue."""
        try:
            return self._store.counts(queue)
        except MissingEntity:
            return None

    def queue_dropped(self, queue: str) -> int:
        """How many messages the length limit of a queue has dropped.

        Raises:
            amqp.exceptions.NotFound: there is no such queue.
        """
        with missing_as_not_found():
            return self._store.dropped(queue)

    def count_routing_key(self, queue: str, routing_key: str) -> int:
        """The number of a queue's messages with a routing key; 0 if there is no such queue."""
        return self._store.count_routing_key(queue, routing_key)

    def find(self, name: str, value: str) -> list[tuple[str, Any, bool, float | None]]:
        """Every message of which a property has that text as its value, ready and claimed, the oldest first.

        Returns:
            Of each: its queue, the message, whether it is claimed, and when (Unix time) it expires.
        """
        return [
            (one.queue, raw, one.claimed, None if one.expires is None else one.expires / 1000)
            for part in self._store.find(value)
            for one in part
            if (raw := messages.raw_message(one.delivery, self, None, None)).properties.get(name) == value
        ]

    def published_once(self, once: bytes) -> float | None:
        """When (Unix time) a message was published with that `once`, if that is remembered; see `publish_once`."""
        return self._store.published_once(once)

    def abandoned_claims(self, queues: Iterable[str]) -> list[str]:
        """Claim files given by `claim_file` that nobody holds although messages of these queues are claimed by them."""
        return self._store.abandoned(queues)

    def release_claims(self, path: str) -> None:
        """Gives back what is claimed by such a file, marked as redelivered."""
        self._store.release(path)

    def store_replaced(self) -> bool:
        """Whether the store was removed or replaced: what this channel declared and consumes is gone."""
        return self._store.replaced()

    # For the connection

    def has_more(self) -> bool:
        """Whether `deliver` may find something without anybody being woken."""
        return self._deliveries.has_more()

    def deliver(self) -> bool:
        """Calls back with what has arrived, after claiming if nothing has; says whether there was anything."""
        if not self._deliveries.arrived:
            self._deliveries.claim()
        found = len(self._deliveries.arrived)
        done: list[int] = []
        try:
            for _ in range(found if self._deliveries.prefetch.whole_channel else min(1, found)):
                self._call_back(done)
        finally:
            if done:
                self._store.apply(Batch(acknowledged=done))
        return bool(found)

    # Within

    def _call_back(self, done: list[int]) -> None:
        if not self._deliveries.arrived:
            return  # a callback has cancelled the consumer
        consumer, delivery = self._deliveries.arrived.popleft()
        if consumer.no_ack:
            done.append(delivery.seq)
        consumer.callback(self._raw(delivery, consumer, consumer.no_ack))

    def _raw(self, delivery: Delivery, consumer: Consumer | None, no_ack: bool) -> Any:
        deliveries = self._deliveries
        tag = deliveries.auto_acknowledge(consumer) if no_ack else deliveries.hand_out(delivery, consumer)
        raw = messages.raw_message(delivery, self, tag, consumer.tag if consumer else None)
        if self.auto_decode:
            messages.decode_body(raw)
        return raw

    def _settle(self, tags: list[int], how: Literal["acknowledged", "requeued", "rejected"]) -> None:
        batch = self._transaction or Batch()
        seqs: list[int] = getattr(batch, how)
        seqs += [self._deliveries.unacked[tag].seq for tag in tags]
        if self._transaction is None:
            self._store.apply(batch)
        self._deliveries.settle(tags)
        if self._transaction is None:
            self._deliveries.commit()

    def _apply(self, batch: Batch) -> list[int]:
        try:
            with missing_as_not_found():
                return self._store.apply(batch)
        except Unroutable as error:
            raise ChannelError(str(error), reply_code=NO_ROUTE) from error

    def _begun(self) -> Batch:
        if self._transaction is None:
            raise PreconditionFailed("the channel isn't transactional: call tx_select first")
        return self._transaction

    def _open(self) -> Connection:
        if self.connection is None:
            raise RecoverableConnectionError("the channel is closed")
        return self.connection


def _ignore(message: object) -> None:
    """Stands in for a callback that wasn't given."""
