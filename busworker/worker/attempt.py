"""One handler call under its limits, turned into an outcome. Whatever the handler does, this returns."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast
from weakref import WeakSet

from busworker import outcome as how
from busworker.bus import Around, Bus
from busworker.channel import Subscription
from busworker.copies import cut
from busworker.declaration import SubscriptionSpec
from busworker.errors import DecodeError, Reject, Retry, TimeLimitExceeded
from busworker.ipc.frames import Handout
from busworker.message import Message, Outgoing, utc
from busworker.outcome import Error, Outcome
from busworker.worker.limit import AsyncLimit, Look, SoftLimit
from busworker.worker.port import Attempt, enter

TRACEBACK_LIMIT = 16_000
MESSAGE_LIMIT = 4_000
LEFT_TASKS_SECONDS = 1.0
"""Seconds for the tasks that an async handler leaves to end once they are cancelled."""


R = TypeVar("R")
Extend: TypeAlias = Callable[[SubscriptionSpec, float], None]


class Prepared(NamedTuple):
    """An attempt that can begin."""

    subscription: Subscription
    event: object
    attempt: Attempt


class Runner:
    """Runs the attempts of one channel's worker.

    Args:
        bus: the application.
        channel: the channel's name.
        set_deadline: tells the supervisor how many seconds from now the worker is killed; None: never.
        look: what the supervisor tells of time that must not count.
    """

    def __init__(
        self,
        bus: Bus,
        channel: str,
        set_deadline: Callable[[float | None], None],
        look: Callable[[], Look],
    ) -> None:
        self._hooks = bus.around_hooks
        self._has_async_hook = any(inspect.isasyncgenfunction(hook) for hook in self._hooks)
        self._subscriptions = bus.channels[channel].subscriptions
        self._name = f"{bus.name}.{channel}"
        self._set_deadline = set_deadline
        self._look = look
        self._limit = SoftLimit(look)
        self._loop = Loop()

    def run(self, handout: Handout) -> Outcome:
        """The outcome of one attempt, with no other beside it."""
        prepared = self._prepared(handout, self._extend)
        if not isinstance(prepared, Prepared):
            return prepared
        outcome = self._outcome(prepared)
        prepared.attempt.end(failed=not isinstance(outcome, how.Returned))
        return outcome

    def call(self, handout: Handout, published: Callable[[Outgoing], None]) -> None:
        """Calls the handler under no limit, for somebody who watches: what it or a hook raises leaves this.

        Args:
            handout: the message.
            published: gets each message that would have gone out with the outcome, when the handler has ended.

        Raises:
            DecodeError: the body doesn't fit; the handler is not called.
        """
        prepared = self._prepared(handout, lambda _spec, _seconds: None)
        if not isinstance(prepared, Prepared):
            raise DecodeError("the body doesn't fit its topic")
        failed = True
        try:
            contextvars.copy_context().run(self._call, *prepared)
            failed = False
        finally:
            prepared.attempt.end(failed=failed)
            for outgoing in prepared.attempt.outgoing:
                published(outgoing)

    async def run_beside(self, handout: Handout, set_deadline: Callable[[float], None]) -> Outcome:
        """The outcome of one attempt in a task of its own, beside others; nothing that the handler raises leaves it."""
        limit = AsyncLimit(self._look, set_deadline)
        prepared = self._prepared(handout, lambda spec, seconds: limit.move(seconds, seconds + spec.kill_after))
        if not isinstance(prepared, Prepared):
            return prepared
        subscription, event, attempt = prepared
        outcome: Outcome
        try:
            enter(attempt)
            spec = subscription.spec
            if spec.time_limit is not None:
                limit.move(spec.time_limit, spec.time_limit + spec.kill_after)
            await self._call_async(subscription, _arguments(subscription, event, attempt), attempt.message)
        except BaseException as error:  # noqa: BLE001  one handler call with its hooks: whatever it raised is its outcome
            outcome = _failure(error, subscription.dead_on)
            if (told := limit.told(error)) is not None:
                outcome = how.TimedOut(Error("TimeLimitExceeded", told, clean(_stack(error), TRACEBACK_LIMIT)))
        else:
            outcome = how.Returned(tuple(attempt.outgoing))
        limit.stop()
        attempt.end(failed=not isinstance(outcome, how.Returned))
        return outcome

    def serve(self, awaitable: Awaitable[R]) -> R:
        """Runs a coroutine in the event loop in which async hooks have run."""
        return self._loop.run(awaitable, keeps_tasks=True)

    def run_hook(self, hook: Callable[[], object]) -> None:
        """Runs a start or stop hook, plain or async."""
        result = hook()
        if inspect.isawaitable(result):
            self._loop.run(cast("Awaitable[object]", result), keeps_tasks=True)

    def close(self) -> None:
        """Ends the event loop, if there was one."""
        self._loop.close()

    def _prepared(self, handout: Handout, extend: Extend) -> Prepared | Outcome:
        subscription = self._subscriptions[handout.subscription]
        try:
            event: object = subscription.codec.decode(handout.body)
        except DecodeError as error:
            return how.Invalid(Error("DecodeError", clean(str(error), MESSAGE_LIMIT)))
        except Exception as error:  # noqa: BLE001  the event type's own checks (__post_init__) may raise anything
            return how.Invalid(described(error))
        message = self._message(handout, subscription, extend)
        return Prepared(subscription, event, Attempt(message, f"{subscription.spec.topic}/{self._name}"))

    def _extend(self, spec: SubscriptionSpec, seconds: float) -> None:
        self._limit.move(seconds)
        self._set_deadline(seconds + spec.kill_after)

    def _message(self, handout: Handout, subscription: Subscription, extend: Extend) -> Message:
        spec = subscription.spec
        return Message(
            id=handout.id,
            topic=handout.topic,
            channel=self._name,
            attempt=handout.attempt,
            max_attempts=spec.max_attempts,
            published_at=utc(handout.published_at),
            correlation_id=handout.correlation_id,
            headers=handout.headers,
            body=handout.body,
            _extend=None if spec.time_limit is None else partial(extend, spec),
        )

    def _outcome(self, prepared: Prepared) -> Outcome:
        subscription, event, attempt = prepared
        try:
            try:
                if subscription.spec.time_limit is not None:
                    self._set_deadline(subscription.spec.time_limit + subscription.spec.kill_after)
                self._limit.start(subscription.spec.time_limit)
                contextvars.copy_context().run(self._call, subscription, event, attempt)
            finally:
                self._limit.stop()
        except BaseException as error:  # noqa: BLE001  one handler call with its hooks: whatever it raised is its outcome
            return _failure(error, subscription.dead_on)
        return how.Returned(tuple(attempt.outgoing))

    def _call(self, subscription: Subscription, event: object, attempt: Attempt) -> None:
        enter(attempt)
        arguments = _arguments(subscription, event, attempt)
        if subscription.is_async or self._has_async_hook:
            self._loop.run(self._call_async(subscription, arguments, attempt.message))
            return
        if not self._hooks:
            self._call_plain(subscription, arguments)
            return
        with ExitStack() as stack:
            for hook in self._hooks:
                stack.enter_context(_around(hook, attempt.message))
            self._call_plain(subscription, arguments)

    def _call_plain(self, subscription: Subscription, arguments: tuple[object, ...]) -> None:
        result = subscription.handler(*arguments)
        if result is not None and inspect.isawaitable(result):  # an async function behind a plain callable
            self._loop.run(result)

    async def _call_async(self, subscription: Subscription, arguments: tuple[object, ...], message: Message) -> None:
        async with AsyncExitStack() as stack:
            for hook in self._hooks:
                if inspect.isasyncgenfunction(hook):
                    await stack.enter_async_context(asynccontextmanager(hook)(message))
                else:
                    stack.enter_context(_around(hook, message))
            result = subscription.handler(*arguments)
            if inspect.isawaitable(result):
                await result


class Loop:
    """An event loop that lives as long as nothing breaks it: a limit or an exit leaves tasks behind."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._kept: WeakSet[asyncio.Task[object]] = WeakSet()

    def run(self, awaitable: Awaitable[R], *, keeps_tasks: bool = False) -> R:
        """Runs it to its end, in the context of the caller; its result.

        Args:
            awaitable: what to run.
            keeps_tasks: what it leaves goes on whenever the loop runs (a hook's); else it is cancelled, for it would
                go on within the next message.
        """
        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            return self._runner.run(self._awaited(awaitable, keeps_tasks), context=contextvars.copy_context())
        except Exception:
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancels what is left and closes."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            runner.close()

    async def _awaited(self, awaitable: Awaitable[R], keeps_tasks: bool) -> R:
        try:
            return await awaitable
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()} - set(self._kept)
            if keeps_tasks:
                self._kept.update(left)
            elif left:
                await _cancelled(left)


def _failure(error: BaseException, dead_on: tuple[type[BaseException], ...]) -> Outcome:
    try:
        return failure(error, dead_on)
    except BaseException:  # noqa: BLE001  its __class__ is the handler's code as well
        return how.Raised(described(error))


def _arguments(subscription: Subscription, event: object, attempt: Attempt) -> tuple[object, ...]:
    return (event, attempt.message) if subscription.wants_message else (event,)


def failure(error: BaseException, dead_on: tuple[type[BaseException], ...]) -> Outcome:
    """The outcome of what a handler raised."""
    told = described(error)
    match error:
        case Reject():
            return how.Rejected(told)
        case TimeLimitExceeded():
            return how.TimedOut(told)
        case _ if isinstance(error, dead_on):
            return how.Rejected(told, "exception")
        case Retry():
            return how.Raised(told, error.after)
        case _:
            return how.Raised(told)


def described(error: BaseException) -> Error:
    """What a dead letter tells of an exception; bounded, and never raising whatever its `str` does."""
    return Error(clean(_name(type(error)), 200), _text(error), clean(_stack(error), TRACEBACK_LIMIT))


def clean(text: str, limit: int) -> str:
    """The text, bounded, without the lone surrogates that no encoding takes."""
    return cut(text, limit).encode("utf-8", "replace").decode()


def _name(kind: type) -> str:
    """Its name, whatever its metaclass makes of that."""
    return cast("str", type.__dict__["__name__"].__get__(kind))


def _text(error: BaseException) -> str:
    try:
        return clean(str(error), MESSAGE_LIMIT)
    except BaseException as broken:  # noqa: BLE001  its __str__ is the handler's code as well
        return f"(its text can't be had: {_name(type(broken))})"


def _stack(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(type(error), error, _of_handler(error.__traceback__), limit=-50))
    except BaseException as broken:  # noqa: BLE001  formatting calls the handler's __str__ and __repr__
        return f"(its traceback can't be had: {_name(type(broken))})"


def _of_handler(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the calls that lead into the handler: those of this file."""
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _around(hook: Around, message: Message) -> Any:
    return contextmanager(cast("Any", hook))(message)


async def _cancelled(tasks: set[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=LEFT_TASKS_SECONDS)
