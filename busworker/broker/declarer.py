"""Declares exchanges and queues on a kombu channel, each as `topology.py` says. One a session."""

from __future__ import annotations

from typing import Any

from busworker.broker import topology


class Declarer:
    """What a session declares.

    Args:
        kombu_channel: where.
        flavour: what differs between brokers.
    """

    def __init__(self, kombu_channel: Any, flavour: topology.Flavour) -> None:
        self._channel = kombu_channel
        self._flavour = flavour
        self._declared: set[str] = set()
        self._retries: set[int] = set()
        self._works: set[tuple[str, str, str]] = set()

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

    def _once(self, exchange: topology.Exchange, queue: topology.Queue) -> None:
        if queue.name not in self._declared:
            self._exchange(exchange)
            self._queue(queue)
            self._declared.add(queue.name)

    def _exchange(self, exchange: topology.Exchange) -> None:
        self._channel.exchange_declare(
            exchange.name, exchange.type, durable=True, auto_delete=False, arguments=exchange.arguments or None
        )

    def _queue(self, queue: topology.Queue) -> None:
        self._channel.queue_declare(
            queue.name, durable=True, exclusive=False, auto_delete=False, arguments=queue.arguments or None
        )
        for exchange, routing_key in queue.bindings:
            self._channel.queue_bind(queue.name, exchange, routing_key)
