"""`Channel`: the subscriptions of a service that share a pool, and which functions can be handlers. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar, cast, overload

from busworker.declaration import ChannelSpec, SubscriptionSpec
from busworker.errors import ConfigurationError
from busworker.message import Message
from busworker.payload import JSON_CODEC, Codec, Json
from busworker.retry import RetryPolicy
from busworker.topic import Pattern, Topic
from busworker.units import seconds

T = TypeVar("T")
R = TypeVar("R")
H = TypeVar("H", bound=Callable[..., object])

Handler: TypeAlias = Callable[..., object]


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
            TypeError: `topic` is neither a Topic nor a Pattern.
        """
        pattern = isinstance(topic, Pattern)
        try:
            name = topic.pattern if isinstance(topic, Pattern) else topic.name
        except AttributeError as error:
            raise TypeError(f"subscribe takes a Topic or a Pattern, not {topic!r}") from error
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
        if self._spec.concurrency > 1 and not is_async:
            raise ConfigurationError(
                f"channel {self._service}.{self.name}: concurrency > 1 needs an async def handler, and "
                f"{name_of(handler)} is none; use processes= instead"
            )
        self.subscriptions.append(Subscription(spec, codec, handler, dead_on, _wants_message(handler), is_async))


def name_of(function: object) -> str:
    """A function as people know it: by its module and name, if it has some."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(function)


def _wants_message(handler: Handler) -> bool:
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):  # builtins without a signature
        return False
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise ConfigurationError(
            f"{name_of(handler)} can't be a handler: calling a generator function runs nothing of it"
        )
    positional = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    wanted = len(positional) > 1 and positional[1].default is inspect.Parameter.empty
    try:
        signature.bind(*((None,) * (2 if wanted else 1)))
    except TypeError as error:
        raise ConfigurationError(
            f"{name_of(handler)} can't be a handler ({error}): write handler(event) or handler(event, message)"
        ) from error
    return wanted
