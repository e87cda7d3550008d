"""The part of a channel that declares: AMQP's exchange and queue methods."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from amqp.exceptions import AMQPNotImplementedError, NotFound, PreconditionFailed
from amqp.protocol import queue_declare_ok_t
from kombu.transport.base import StdChannel, to_rabbitmq_queue_arguments

from busworker.transports.engine.failures import MissingEntity
from busworker.transports.engine.store import Store


@contextmanager
def missing_as_not_found() -> Generator[None]:
    """Raises what the store misses as AMQP's error 404."""
    try:
        yield
    except MissingEntity as error:
        raise NotFound(str(error)) from error


class DeclaringChannel(StdChannel):
    """A channel's exchange and queue methods. Each is durable when it returns."""

    def __init__(self, store: Store) -> None:
        self._store = store

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
        """Declares an exchange, or with `passive` asks whether it exists. Every exchange is durable and stays.

        Raises:
            TopologyMismatch: it exists with another type or other arguments.
            ConfigurationError: there is no such type.
            amqp.exceptions.NotFound: `passive`, and it doesn't exist.
        """
        if passive:
            with missing_as_not_found():
                self._store.exchange_type(exchange)
        else:
            self._store.declare_exchange(exchange, type, arguments or {})

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Removes an exchange with its bindings.

        Raises:
            amqp.exceptions.PreconditionFailed: it has bindings, and `if_unused`.
        """
        if not self._store.delete_exchange(exchange, if_unused=if_unused):
            raise PreconditionFailed(f"exchange {exchange!r} has bindings")

    def exchange_bind(self, destination: str, source: str = "", routing_key: str = "", **_: Any) -> None:
        """Bindings between exchanges, an extension of RabbitMQ's, don't exist here.

        Raises:
            amqp.exceptions.AMQPNotImplementedError: always.
        """
        raise AMQPNotImplementedError(
            f"exchange {destination!r} can't be bound to exchange {source!r}: bind its queues to both"
        )

    exchange_unbind = exchange_bind

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
        """Declares a queue, or with `passive` asks for its counts. Every queue is durable. An exclusive one may be
        used by all. It goes with its last consumer, as an auto-delete one does, and without any with its connection.

        Raises:
            TopologyMismatch: it exists with other arguments.
            amqp.exceptions.NotFound: `passive`, and it doesn't exist.
        """
        if not passive:
            queue = self._store.declare_queue(
                queue, arguments or {}, auto_delete=auto_delete or exclusive, listening=exclusive
            )
        with missing_as_not_found():
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
        """Binds a queue to an exchange. The default exchange has every queue by its name already.

        Raises:
            amqp.exceptions.NotFound: one of them doesn't exist.
        """
        if exchange:
            with missing_as_not_found():
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
        with missing_as_not_found():
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
        with missing_as_not_found():
            return self._store.purge_queue(queue)

    def queue_names(self) -> list[str]:
        """The names of all queues, sorted. Not in AMQP."""
        return self._store.queue_names()

    def routes(self, exchange: str, routing_key: str) -> list[str]:
        """The queues that a message would reach. Not in AMQP."""
        with missing_as_not_found():
            return self._store.routes(exchange, routing_key)
