"""Hooks around attempts and workers, plain and async."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator

from busworker import Bus, Message

bus = Bus("email")


@bus.on_worker_start
def open_pool() -> None:
    print("open")


@bus.on_worker_stop
async def close_pool() -> None:
    print("close")


@bus.around_attempt
def logged(message: Message) -> Iterator[None]:
    print(message.id)
    yield


@bus.around_attempt
def traced(message: Message) -> Generator[None, None, None]:
    try:
        yield
    finally:
        print(message.topic)


@bus.around_attempt
async def in_transaction(message: Message) -> AsyncIterator[None]:
    print(message.attempt)
    yield


@bus.around_attempt
async def measured(message: Message) -> AsyncGenerator[None, None]:
    print(message.channel)
    yield


open_pool()
