"""Declares exchanges and queues on a kombu channel, each as `topology.py` says. One a session."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from amqp.exceptions import PreconditionFailed

from busworker.broker import mismatch, topology
from busworker.broker.mismatch import Mismatch
from busworker.errors import TopologyMismatch

KEPT: dict[str, Any] = {"durable": True, "auto_delete": False}


class Declarer:
    """What a session declares.

    Args:
        kombu_channel: where; on AMQP only its connection is used. A refused declaration closes its channel (AMQP 0-9-1,
            2.1.3), so each gets another one: the session's own, with its open confirms, stays.
        flavour: what differs between brokers.

    Raises:
        TopologyMismatch: by every method, if something exists with other arguments. The session can go on.
    """

    def __init__(self, kombu_channel: Any, flavour: topology.Flavour) -> None:
        self._session_channel = kombu_channel
        self._own_channel: Any = None
        self._flavour = flavour
        self._declared: set[str] = set()
        self._retries: set[int] = set()
        self._works: set[tuple[str, str, str]] = set()

    def move(self, kombu_channel: Any) -> None:
        """From now on declares on that one's connection."""
        self._session_channel, self._own_channel = kombu_channel, None

    def base(self) -> None:
        """What publishers and consumers need."""
        exchanges, queues = topology.base(self._flavour)
        for exchange in exchanges:
            self._exchange(exchange)
        for queue in queues:
            self._queue(queue)

    def work(self, topic: str, service: str, channel: str) -> str:
        """The queues of a subscription; returns the name of the work queue."""
        for queue in topology.work(topic, service, channel, self._flavour):
            self._queue(queue)
        self._works.add((topic, service, channel))
        return topology.work_queue(topic, service, channel)

    def dead(self, work: str) -> None:
        """The queue of a work queue's dead letters alone."""
        self._queue(topology.dead(work, self._flavour))

    def again(self) -> None:
        """Declares anew all that it has declared: something of it is gone."""
        self._declared.clear()
        self.base()
        for names in self._works:
            self.work(*names)
        for delay in self._retries:
            self.retry(delay)

    def retry(self, delay: int) -> None:
        """The retry queue of a step of the ladder, the first time; 0 needs none."""
        self._retries.add(delay)
        if delay:
            self._once(*topology.retry(delay, self._flavour))

    def delayed(self) -> None:
        """Where delayed messages wait, the first time."""
        self._once(*topology.delayed())

    def spool(self) -> None:
        """Where a publisher keeps what its broker can't take."""
        for queue in topology.spool():
            self._queue(queue)

    def tail(self, topic: str) -> str:
        """A queue of this connection's own that gets what is published to a topic or pattern; returns its name."""
        queue = topology.tail(secrets.token_hex(8), topic, self._flavour)
        channel = self._channel()
        channel.queue_declare(queue.name, exclusive=True, auto_delete=False, arguments=queue.arguments)
        for exchange, routing_key in queue.bindings:
            channel.queue_bind(queue.name, exchange, routing_key)
        return queue.name

    def delays(self) -> None:
        """Where delayed messages wait on AMQP, the first time: 28 queues, half a second if there are none yet."""
        if topology.DUE not in self._declared:
            exchanges, queues = topology.delays()
            for exchange in exchanges:
                self._exchange(exchange)
            for queue in queues:
                self._queue(queue)
            self._declared.add(topology.DUE)

    def _once(self, exchange: topology.Exchange, queue: topology.Queue) -> None:
        if queue.name not in self._declared:
            self._exchange(exchange)
            self._queue(queue)
            self._declared.add(queue.name)

    def _exchange(self, exchange: topology.Exchange) -> None:
        try:
            self._channel().exchange_declare(exchange.name, exchange.type, arguments=exchange.arguments or None, **KEPT)
        except PreconditionFailed as error:
            wanted = {"type": exchange.type, **KEPT, **exchange.arguments}
            _judge(error, "exchange", exchange.name, wanted)
            raise
        for source, routing_key in exchange.bindings:
            self._channel().exchange_bind(exchange.name, source, routing_key)

    def _queue(self, queue: topology.Queue) -> None:
        found = self._differs(queue.name, queue.arguments)
        if found is not None:
            self._accept(queue.name, queue.arguments, found)
        for exchange, routing_key in queue.bindings:
            self._channel().queue_bind(queue.name, exchange, routing_key)

    def _differs(self, name: str, arguments: Mapping[str, object]) -> Mismatch | None:
        """Declares a queue; what the broker says if that differs by its delivery limit."""
        try:
            self._channel().queue_declare(name, exclusive=False, arguments=dict(arguments) or None, **KEPT)
        except PreconditionFailed as error:
            found = mismatch.read(str(error))
            if found is not None and found.argument == mismatch.DELIVERY_LIMIT and not found.invalid:
                return found
            _judge(error, "queue", name, {**KEPT, **arguments})
            raise
        return None

    def _accept(self, name: str, arguments: Mapping[str, object], found: Mismatch) -> None:
        """Takes a queue with the delivery limit it has: RabbitMQ's default differs by version, an operator's counts."""
        theirs = mismatch.without_limit(arguments, found)
        if theirs is None or self._differs(name, theirs) is not None:
            # The text was cut before the limit; what else differs can't be told then.
            self._channel().queue_declare(name, passive=True)

    def _channel(self) -> Any:
        """An open channel to declare on."""
        if self._flavour.queue_type is None:
            return self._session_channel
        if self._own_channel is None or not self._own_channel.is_open:
            self._own_channel = self._session_channel.connection.channel()
        return self._own_channel


def _judge(error: PreconditionFailed, kind: str, name: str, wanted: Mapping[str, object]) -> None:
    """Raises our error if the declaration was refused; else the channel ended for another reason just then."""
    found = mismatch.read(str(error))
    if found is not None:
        raise TopologyMismatch(mismatch.explain(kind, name, wanted, found)) from error
