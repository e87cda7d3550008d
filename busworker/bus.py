"""What an application declares and calls: `Bus`, `Topic`, `Pattern`, `Channel`. No I/O.

Publishing goes through a port that is filled at run time: in an ordinary process by `busworker.publisher`, imported
at the first publish; in a worker by the worker, whose messages travel with the outcome of the attempt.
"""

from __future__ import annotations

import importlib
import inspect
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, cast, overload

import msgspec

from busworker.declaration import ChannelSpec, ServiceSpec, SubscriptionSpec
from busworker.errors import ApplicationError, ConfigurationError, EncodeError
from busworker.message import BUS_EXCHANGE, OWN_PREFIX, HeaderValue, Message, Outgoing
from busworker.names import checked_name, checked_pattern, checked_topic
from busworker.payload import JSON_CODEC, Codec, Json
from busworker.receipt import Receipt
from busworker.retry import RetryPolicy
from busworker.units import seconds, size

T = TypeVar("T")
R = TypeVar("R")
H = TypeVar("H", bound=Callable[..., object])
Hook = TypeVar("Hook", bound=Callable[[], object])
AroundHook = TypeVar("AroundHook", bound=Callable[[Message], Iterator[object] | AsyncIterator[object]])

Handler: TypeAlias = Callable[..., object]
Around: TypeAlias = Callable[[Message], object]

OPEN_PORT = "busworker.publisher:open_port"
"""The entry point that gives an ordinary process its publisher; a text, so that the core doesn't import a broker."""


HEADERS_LIMIT = 64 * 1024
"""Bytes; AMQP sends all headers in one frame, and a dead letter adds up to 8 KiB of ours."""


class Topic(Generic[T]):
    """A named stream of events of one type, shared by services.

    Args:
        name: words of `a-z 0-9 _ -` separated by dots, up to 100 characters.
        event_type: a dataclass, `msgspec.Struct`, TypedDict or builtin type that is a JSON document.

    Raises:
        ConfigurationError: the name or the type can't be used.
    """

    def __init__(self, name: str, event_type: type[T]) -> None:
        self.name = checked_topic(name)
        self.event_type = event_type
        self.codec: Codec[T] = Codec(event_type)

    def __repr__(self) -> str:
        return f"Topic({self.name!r}, {getattr(self.event_type, '__name__', self.event_type)})"


@dataclass(frozen=True, slots=True)
class Pattern:
    """Many topics at once: `*` stands for one word, `#` for any number of words.

    Raises:
        ConfigurationError: the text is no pattern.
    """

    pattern: str

    def __post_init__(self) -> None:
        checked_pattern(self.pattern)


class Subscriber(Protocol[T]):
    """The decorator that `Channel.subscribe` returns; it gives back the handler itself."""

    @overload
    def __call__(self, handler: Callable[[T], R], /) -> Callable[[T], R]: ...
    @overload
    def __call__(self, handler: Callable[[T, Message], R], /) -> Callable[[T, Message], R]: ...


@dataclass(frozen=True, slots=True)
class Subscription:
    """A handler with what it was subscribed to; `wants_message` says that it takes the message as well."""

    spec: SubscriptionSpec
    codec: Codec[Any]
    handler: Handler
    dead_on: tuple[type[BaseException], ...]
    wants_message: bool
    is_async: bool


class PublishPort(Protocol):
    """Where `Bus.publish` hands its messages."""

    @property
    def delays(self) -> bool:
        """Whether the broker can hold a message back until it is due."""
        ...

    def publish(self, outgoing: Outgoing, *, immediately: bool) -> Receipt:
        """Takes a message; gives it an id if it has none."""
        ...

    def flush(self, timeout: float | None) -> None:
        """Waits until nothing is pending."""
        ...

    def close(self) -> None:
        """Flushes and lets go of the broker."""
        ...


class Channel:
    """Named subscriptions of a service that share a pool of workers; made by `Bus.channel`."""

    def __init__(self, service: str, spec: ChannelSpec) -> None:
        self._service = service
        self._spec = spec
        self.subscriptions: list[Subscription] = []

    @property
    def name(self) -> str:
        """Its name within the service."""
        return self._spec.name

    @property
    def spec(self) -> ChannelSpec:
        """Its declaration with all subscriptions made so far."""
        return ChannelSpec(
            name=self._spec.name,
            processes=self._spec.processes,
            concurrency=self._spec.concurrency,
            memory_limit=self._spec.memory_limit,
            max_messages=self._spec.max_messages,
            subscriptions=tuple(subscription.spec for subscription in self.subscriptions),
        )

    @overload
    def subscribe(
        self,
        topic: Topic[T],
        *,
        retry: RetryPolicy = ...,
        time_limit: float | str | None = ...,
        kill_after: float | str = ...,
    ) -> Subscriber[T]: ...
    @overload
    def subscribe(
        self,
        topic: Pattern,
        *,
        retry: RetryPolicy = ...,
        time_limit: float | str | None = ...,
        kill_after: float | str = ...,
    ) -> Subscriber[Json]: ...
    def subscribe(
        self,
        topic: Topic[Any] | Pattern,
        *,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008  a frozen value
        time_limit: float | str | None = 600.0,
        kill_after: float | str = 5.0,
    ) -> Subscriber[Any]:
        """Makes a function the handler of a topic in this channel.

        Args:
            topic: a topic, whose handler gets the typed event, or a pattern, whose handler gets decoded JSON.
            retry: what happens to a message whose attempt failed.
            time_limit: seconds until `TimeLimitExceeded` is raised in the handler; None: no limit.
            kill_after: seconds later the worker is killed if the handler still runs.

        Returns:
            A decorator for `handler(event)` or `handler(event, message)`, plain or async. A second parameter that
            has a default is the handler's own and doesn't get the message.

        Raises:
            ConfigurationError: the channel handles that topic already, a value is out of its range, or (from the
                decorator) the function can't be a handler.
        """
        pattern = isinstance(topic, Pattern)
        name = topic.pattern if isinstance(topic, Pattern) else topic.name
        if any(subscription.spec.topic == name for subscription in self.subscriptions):
            raise ConfigurationError(
                f"channel {self._service}.{self.name} subscribes twice to {name!r}: use a second channel"
            )
        spec = SubscriptionSpec(
            topic=name,
            pattern=pattern,
            max_attempts=retry.max_attempts,
            delays=retry.delays,
            time_limit=None if time_limit is None else seconds(time_limit, "time_limit", least=0.001),
            kill_after=seconds(kill_after, "kill_after"),
        )
        codec: Codec[Any] = JSON_CODEC if isinstance(topic, Pattern) else topic.codec

        def register(handler: H) -> H:
            self._add(spec, codec, handler, retry.dead_on)
            return handler

        return cast("Subscriber[Any]", register)

    def _add(
        self, spec: SubscriptionSpec, codec: Codec[Any], handler: Handler, dead_on: tuple[type[BaseException], ...]
    ) -> None:
        if any(subscription.spec.topic == spec.topic for subscription in self.subscriptions):
            raise ConfigurationError(
                f"channel {self._service}.{self.name} subscribes twice to {spec.topic!r}: use a second channel"
            )
        is_async = inspect.iscoroutinefunction(handler)
        if self._spec.concurrency > 1:
            hint = "concurrency > 1 isn't available yet" if is_async else "concurrency > 1 needs an async def handler"
            raise ConfigurationError(f"channel {self._service}.{self.name}: {hint}; use processes= instead")
        self.subscriptions.append(Subscription(spec, codec, handler, dead_on, _wants_message(handler), is_async))


class Bus:
    """The bus as one service sees it: its channels, its hooks, and `publish`.

    Args:
        name: the service's name, up to 40 of `a-z 0-9 _ -`.
        broker: the broker's URL; the settings `--broker` and `BUSWORKER_BROKER` win over it.
        imports: modules that hold handlers, imported when the service starts.
        publish_deadline: seconds after which a receipt that isn't confirmed has failed.

    Raises:
        ConfigurationError: the name or the deadline can't be used.
    """

    def __init__(
        self,
        name: str,
        broker: str | None = None,
        imports: Iterable[str] = (),
        publish_deadline: float | str = 10.0,
    ) -> None:
        self.name = checked_name(name, "service")
        self.broker = broker
        self.imports = tuple([imports] if isinstance(imports, str) else imports)
        self.publish_deadline = seconds(publish_deadline, "publish_deadline", least=0.001)
        self.channels: dict[str, Channel] = {}
        self.worker_start_hooks: list[Callable[[], object]] = []
        self.worker_stop_hooks: list[Callable[[], object]] = []
        self.around_hooks: list[Around] = []
        self._port: PublishPort | None = None

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
        """Runs a function, plain or async, in each new worker before its first message."""
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
            raise ConfigurationError(f"around_attempt takes a generator function; {hook!r} is none: it must yield once")
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
            id: the message's id, up to 255 bytes; None: a random one, or within an attempt one derived from it.
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
            ApplicationError: called while the application is being imported by `start` or `check`.
            ConfigurationError: a delay on `amqp://`, which can't do that yet.

        Guarantees:
            A confirmed message is stored: it survives the death of any process. Messages of one thread are stored in
            their order. Safe in threads and after a fork. Within an attempt the message goes out together with the
            outcome, once the handler has returned, and not at all if the attempt fails.
        """
        body = topic.codec.encode(event)
        return self.publish_body(topic.name, body, id, headers, delay, correlation_id, immediately=immediately)

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
        properties: dict[str, object] = {
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "delivery_mode": 2,
            "type": topic,
            "timestamp": int(time.time()),
            "app_id": self.name,
        }
        for name, value in (("message_id", id), ("correlation_id", correlation_id)):
            if value is not None:
                properties[name] = _short(value, name)
        outgoing = Outgoing(BUS_EXCHANGE, topic, body, properties, _checked_headers(headers), wait)
        port = self._open_port()
        if wait and not port.delays:
            raise ConfigurationError("this broker can't hold messages back yet: publish without a delay")
        return port.publish(outgoing, immediately=immediately)

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
        module, _, function = OPEN_PORT.partition(":")
        open_port = cast("Callable[[Bus], PublishPort]", getattr(importlib.import_module(module), function))
        return open_port(self)


_opening = threading.Lock()
"""Held while a port is opened, so that threads that publish first share one; and over a fork, so that it is free."""
os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_opening.release)
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


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 1


def _wants_message(handler: Handler) -> bool:
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):  # builtins without a signature
        return False
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise ConfigurationError(f"{handler!r} can't be a handler: calling a generator function runs nothing of it")
    positional = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    wanted = len(positional) > 1 and positional[1].default is inspect.Parameter.empty
    try:
        signature.bind(*((None,) * (2 if wanted else 1)))
    except TypeError as error:
        raise ConfigurationError(
            f"{handler!r} can't be a handler ({error}): write handler(event) or handler(event, message)"
        ) from error
    return wanted


def _short(value: str, what: str) -> str:
    # AMQP 0-9-1, 4.2.5.3: a short string has up to 255 bytes.
    try:
        if 0 < len(value.encode()) <= 255:
            return value
    except UnicodeEncodeError:
        pass  # a lone surrogate has no bytes
    raise EncodeError(f"{what}={value!r} must have 1 to 255 bytes of UTF-8")


def _checked_headers(headers: Mapping[str, HeaderValue] | None) -> dict[str, HeaderValue]:
    if not headers:
        return {}
    for name in headers:
        if _short(name, "the name of a header").startswith(OWN_PREFIX):
            raise EncodeError(f"header {name!r}: names that start with {OWN_PREFIX!r} are busworker's own")
    try:
        for name, value in headers.items():
            _check_header(name, value)
        taken = len(msgspec.msgpack.encode(headers))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EncodeError(f"the headers can't be sent: {error}") from error
    if taken > HEADERS_LIMIT:
        raise EncodeError(f"the headers have {taken:,} bytes, over the limit of {HEADERS_LIMIT:,}")
    return dict(headers)


def _check_header(name: str, value: object) -> None:
    """Refuses what a broker can't carry, which would otherwise show only in the publisher's thread."""
    match value:
        case None | bool() | float() | str() | bytes():
            return
        case int() if -(2**63) <= value < 2**63:
            return
        case list() | tuple():
            parts = cast("list[object]", value)
        case dict() if all(isinstance(key, str) for key in cast("dict[object, object]", value)):
            parts = list(cast("dict[str, object]", value).values())
        case _:
            raise EncodeError(f"header {name!r}: {value!r} is no text, bytes, number, bool, None, list or dict")
    for part in parts:
        _check_header(name, part)
