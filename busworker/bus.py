"""`Bus`: the service as its application declares it, and publishing. No I/O.

Publishing goes through a port that is filled at run time: in an ordinary process by `busworker.publisher`, imported
at the first publish; in a worker by the worker, whose messages travel with the outcome of the attempt.
"""

from __future__ import annotations

import importlib
import inspect
import os
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar, cast

from busworker.channel import Channel, name_of
from busworker.declaration import ChannelSpec, ServiceSpec
from busworker.errors import ApplicationError, ConfigurationError
from busworker.forks import OverForks
from busworker.headers import checked_headers, short
from busworker.message import BUS_EXCHANGE, LONGEST_DELAY, READY_AT, HeaderValue, Message, Outgoing, milliseconds
from busworker.names import checked_name
from busworker.receipt import Receipt, Receipts
from busworker.topic import Topic
from busworker.units import seconds, size

T = TypeVar("T")
Hook = TypeVar("Hook", bound=Callable[[], object])
AroundHook = TypeVar("AroundHook", bound=Callable[[Message], Iterator[object] | AsyncIterator[object]])

Around: TypeAlias = Callable[[Message], object]

OPEN_PORT = "busworker.publisher:open_port"
"""The entry point that gives an ordinary process its publisher; a text, so that the core doesn't import a broker."""


class PublishPort(Protocol):
    """Where `Bus.publish` hands its messages."""

    def publish(self, outgoing: Outgoing, *, immediately: bool) -> Receipt:
        """Takes a message; gives it an id if it has none."""
        ...

    def flush(self, timeout: float | None) -> None:
        """Waits until nothing is pending."""
        ...

    def close(self) -> None:
        """Flushes and lets go of the broker."""
        ...


class Bus:
    """The bus as one service sees it: its channels, its hooks, and `publish`.

    Args:
        name: the service's name, up to 40 of `a-z 0-9 _ -`.
        broker: the broker's URL; the settings `--broker` and `BUSWORKER_BROKER` win over it.
        imports: modules that hold handlers, imported when the service starts.
        publish_deadline: seconds after which a receipt that isn't confirmed has failed.
        spool: a folder on a local disk. What an ordinary process publishes and the broker can't take within a second
            is kept there, in order, and sent when it can, by this process or another with the same spool. The setting
            `BUSWORKER_SPOOL` wins over it; None: there is none. Handlers publish with their outcome and need none.

    Raises:
        ConfigurationError: the name or the deadline can't be used.
    """

    def __init__(
        self,
        name: str,
        broker: str | None = None,
        imports: Iterable[str] = (),
        publish_deadline: float | str = 10.0,
        spool: str | os.PathLike[str] | None = None,
    ) -> None:
        self.name = checked_name(name, "service")
        self.broker = broker
        self.imports = tuple([imports] if isinstance(imports, str) else imports)
        self.publish_deadline = seconds(publish_deadline, "publish_deadline", least=0.001)
        self.spool = None if spool is None else str(Path(spool).expanduser().absolute())
        self.channels: dict[str, Channel] = {}
        self.worker_start_hooks: list[Callable[[], object]] = []
        self.worker_stop_hooks: list[Callable[[], object]] = []
        self.around_hooks: list[Around] = []
        self._port: PublishPort | None = None
        self._opens = False

    @property
    def spec(self) -> ServiceSpec:
        """All that is declared, as data."""
        return ServiceSpec(self.name, tuple(channel.spec for channel in self.channels.values()))

    def channel(
        self,
        name: str,
        *,
        processes: int = 1,
        concurrency: int = 1,
        memory_limit: int | str | None = None,
        max_messages: int | None = None,
    ) -> Channel:
        """Declares a channel: a pool of workers of its own, for the subscriptions made on it.

        Args:
            name: up to 40 of `a-z 0-9 _ -`, once per service.
            processes: workers, 1 to 1000; `start --channel NAME=N` and `scale` change it.
            concurrency: how many `async def` handlers run at a time in each worker.
            memory_limit: resident bytes a worker may take, or a text like "512MB".
            max_messages: after how many messages a worker is replaced; None: never.

        Raises:
            ConfigurationError: the name is taken or a value is out of its range.
        """
        if checked_name(name, "channel") in self.channels:
            raise ConfigurationError(f"service {self.name} has two channels {name!r}: give one another name")
        for what, value in (("processes", processes), ("concurrency", concurrency)):
            if not _is_count(value) or value > 1000:
                raise ConfigurationError(f"channel {self.name}.{name}: {what}={value!r} must be from 1 to 1000")
        if max_messages is not None and not _is_count(max_messages):
            raise ConfigurationError(f"channel {self.name}.{name}: max_messages={max_messages!r} must be 1 or more")
        limit = None if memory_limit is None else size(memory_limit, "memory_limit")
        spec = ChannelSpec(name, processes, concurrency, limit, max_messages, ())
        self.channels[name] = Channel(self.name, spec)
        return self.channels[name]

    def on_worker_start(self, hook: Hook) -> Hook:
        """Runs a function, plain or async, in each new worker before its first message.

        What it publishes waits, up to the publish deadline, until the channel's consumer has its connection.
        """
        self.worker_start_hooks.append(hook)
        return hook

    def on_worker_stop(self, hook: Hook) -> Hook:
        """Runs a function, plain or async, in each worker that stops in an orderly way."""
        self.worker_stop_hooks.append(hook)
        return hook

    def around_attempt(self, hook: AroundHook) -> AroundHook:
        """Runs a generator function, plain or async, around each handler call.

        It takes the `Message` and yields once. What the handler raised is raised at its `yield`; what it raises
        itself fails the attempt. The first one declared is the outermost.
        """
        if not (inspect.isgeneratorfunction(hook) or inspect.isasyncgenfunction(hook)):
            raise ConfigurationError(
                f"around_attempt takes a generator function; {name_of(hook)} is none: it must yield once"
            )
        self.around_hooks.append(hook)
        return hook

    def publish(
        self,
        topic: Topic[T],
        event: T,
        *,
        id: str | None = None,
        headers: Mapping[str, HeaderValue] | None = None,
        delay: float | str | None = None,
        correlation_id: str | None = None,
        immediately: bool = False,
    ) -> Receipt:
        """Publishes an event to every channel that subscribes to its topic.

        Args:
            topic: where to.
            event: the event; checked against the topic's type.
            id: the message's id, up to 255 bytes; None: a random one, or within an attempt one derived from it. On the
                embedded transports a message with an id that was given before, to the same topic and within an hour,
                isn't stored again: its receipt is confirmed and says `duplicate`.
            headers: own headers, up to 64 KiB, of text, bytes, numbers, bools, None, lists and dicts; names that
                start with `x-busworker-` are ours.
            delay: seconds until it is routed, by the subscriptions of then; None: now.
            correlation_id: up to 255 bytes; within an attempt None takes over that of the handled message.
            immediately: within an attempt, don't wait for its outcome.

        Returns:
            A receipt, at once. It blocks only while the publisher's buffer is full, up to `publish_deadline`.

        Raises:
            EncodeError: the event doesn't fit the topic, its body is over 16 MiB, or an id or header can't be sent.
                Nothing is published.
            TypeError: `topic` is no Topic.
            ApplicationError: called while the application is being imported by `start` or `check`.
            ConfigurationError: the delay is no duration.

        Guarantees:
            A confirmed message is stored: it survives the death of any process. Messages of one thread are stored in
            their order. Safe in threads and after a fork. Within an attempt the message goes out together with the
            outcome, once the handler has returned, and not at all if the attempt fails.
        """
        try:
            name, encode = topic.name, topic.codec.encode
        except AttributeError as error:
            raise _no_topic(topic) from error
        return self.publish_body(name, encode(event), id, headers, delay, correlation_id, immediately=immediately)

    def publish_many(
        self,
        topic: Topic[T],
        events: Iterable[T],
        *,
        headers: Mapping[str, HeaderValue] | None = None,
        delay: float | str | None = None,
        correlation_id: str | None = None,
        immediately: bool = False,
    ) -> Receipts:
        """Publishes events of one topic, as `publish` does with each; none if one of them can't be.

        Args:
            topic: where to.
            events: the events; all are read and encoded before the first is published.
            headers: own headers of each.
            delay: of each.
            correlation_id: of each.
            immediately: as with `publish`.

        Returns:
            Their receipts, in their order, which can be waited for together.

        Raises:
            EncodeError: as with `publish`; nothing is published.
        """
        try:
            name, encode = topic.name, topic.codec.encode
        except AttributeError as error:
            raise _no_topic(topic) from error
        bodies = [encode(event) for event in events]
        each = partial(self.publish_body, name, headers=headers, delay=delay, correlation_id=correlation_id)
        return Receipts([each(body, immediately=immediately) for body in bodies])

    def publish_body(
        self,
        topic: str,
        body: bytes,
        id: str | None = None,
        headers: Mapping[str, HeaderValue] | None = None,
        delay: float | str | None = None,
        correlation_id: str | None = None,
        *,
        immediately: bool = False,
    ) -> Receipt:
        """As `publish`, with JSON that is encoded already and isn't checked."""
        wait = None if delay is None else seconds(delay, "delay")
        if wait and wait > LONGEST_DELAY:
            raise ConfigurationError(f"delay={delay!r}: give at most {LONGEST_DELAY} s, eight years")
        now = time.time()
        properties: dict[str, object] = {
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "delivery_mode": 2,
            "type": topic,
            "timestamp": int(now),
            "app_id": self.name,
        }
        if id is not None:
            properties["message_id"] = short(id, "message_id")
        if correlation_id is not None:
            properties["correlation_id"] = short(correlation_id, "correlation_id")
        all_headers = checked_headers(headers)
        if wait or id is not None:  # else the id that it gets tells when
            all_headers[READY_AT] = milliseconds(now + (wait or 0.0))
        outgoing = Outgoing(BUS_EXCHANGE, topic, body, properties, all_headers, wait, once=id is not None)
        return self._open_port().publish(outgoing, immediately=immediately)

    def flush(self, timeout: float | None = None) -> None:
        """Waits until every message published so far is confirmed or has failed.

        Raises:
            TimeoutError: `timeout` seconds were not enough.
        """
        if self._port is not None:
            self._port.flush(timeout)

    def close(self) -> None:
        """Flushes, up to the publish deadline, and lets go of the broker. Publishing again opens it anew."""
        if self._port is not None:
            port, self._port = self._port, None
            port.close()

    def use_port(self, port: PublishPort | None) -> None:
        """Sets where published messages go; for the worker, and None for tests that want a fresh publisher."""
        self._port = port

    def _open_port(self) -> PublishPort:
        if _importing:
            raise ApplicationError(
                f"service {self.name} publishes while its application is imported: publish in a handler, a hook or a "
                "function instead"
            )
        port = self._port
        if port is None:
            with _opening:
                port = self._port = self._port or self._new_port()
        return port

    def _new_port(self) -> PublishPort:
        if self._opens:
            raise RuntimeError("a signal handler publishes while the first publish is being set up: try it once more")
        self._opens = True
        try:
            return self._imported_port()
        finally:
            self._opens = False

    def _imported_port(self) -> PublishPort:
        module, _, function = OPEN_PORT.partition(":")
        open_port = cast("Callable[[Bus], PublishPort]", getattr(importlib.import_module(module), function))
        return open_port(self)


_opening = OverForks()
"""Held while a port is opened, so that threads that publish first share one. A signal handler that interrupts that must
not wait for what it has interrupted."""
_importing = 0


@contextmanager
def importing() -> Generator[None]:
    """Refuses publishing meanwhile: an import runs in every start and check, so what it published would repeat."""
    global _importing  # noqa: PLW0603  one flag a process, set by its loader
    _importing += 1
    try:
        yield
    finally:
        _importing -= 1


def _no_topic(given: object) -> TypeError:
    return TypeError(f'publish takes a Topic, not {given!r}: give Topic("name", type of its events)')


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 1
