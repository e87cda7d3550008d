"""Functions that can't be hooks."""

from __future__ import annotations

from collections.abc import Iterator

from busworker import Bus, Message

bus = Bus("email")


@bus.on_worker_start  # error
def with_a_parameter(message: Message) -> None: ...


@bus.on_worker_stop  # error
async def async_with_a_parameter(message: Message) -> None: ...


@bus.around_attempt  # error
def without_yield(message: Message) -> None: ...


@bus.around_attempt  # error
async def async_without_yield(message: Message) -> None: ...


@bus.around_attempt  # error
def without_a_message() -> Iterator[None]:
    yield


@bus.around_attempt  # error
def of_the_event(event: int) -> Iterator[None]:
    yield
