"""Handlers of every kind, each of the type that its topic or pattern has."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypedDict, assert_type

import msgspec

from busworker import Bus, Json, Message, Pattern, Reject, Retry, RetryPolicy, Topic


@dataclass(frozen=True)
class UserRegistered:
    user_id: int
    email: str


class UserMoved(msgspec.Struct):
    user_id: int


class Counted(TypedDict):
    word: str
    count: int


user_registered = Topic("user.registered", UserRegistered)
user_moved = Topic("user.moved", UserMoved)
counted = Topic("word.counted", Counted)
number = Topic("number", int)
numbers = Topic("numbers", list[int])
scores = Topic("scores", dict[str, float])

bus = Bus("email", broker="memory://", imports=["more_handlers"], publish_deadline="10s")
welcome = bus.channel("welcome", processes=2, memory_limit="512MB", max_messages=1000)


@welcome.subscribe(user_registered)
def event_only(event: UserRegistered) -> None:
    print(event.email)


@welcome.subscribe(user_moved, time_limit=30, retry=RetryPolicy(max_attempts=5, delays=(1, 2.5), dead_on=(KeyError,)))
def with_message(event: UserMoved, message: Message) -> None:
    message.extend(10)
    print(message.id, message.attempt, message.published_at, message.headers.get("mine"), len(message.body))


@welcome.subscribe(counted, time_limit=None, kill_after="5s")
async def of_a_typed_dict(event: Counted) -> None:
    await asyncio.to_thread(print, event["count"])


@welcome.subscribe(number, time_limit="10m")
async def async_with_message(event: int, message: Message) -> str:
    if message.attempt == message.max_attempts:
        raise Reject("no more")
    raise Retry("busy", after=event / 2)


@welcome.subscribe(numbers)
def of_a_wider_type(event: object) -> int:
    return len(str(event))


@welcome.subscribe(scores)
def with_a_default_of_its_own(event: dict[str, float], dry: bool = False) -> None:
    print(event, dry)


@welcome.subscribe(Pattern("user.*"))
def of_a_pattern(event: Json, message: Message) -> None:
    if isinstance(event, dict):
        value = event.get("user_id")
        print(message.topic, value)


@bus.channel("log").subscribe(Pattern("#"), retry=RetryPolicy(max_attempts=1))
async def log_all(event: Json) -> None:
    match event:
        case {"user_id": int() as user_id}:
            print(user_id)
        case _:
            pass


def plain(event: UserRegistered) -> int:
    return event.user_id


# The decorator gives the function back, so it can still be called in tests.
assert_type(event_only(UserRegistered(1, "a@example.org")), None)
assert_type(bus.channel("direct").subscribe(user_registered)(plain)(UserRegistered(1, "x")), int)
assert_type(of_a_wider_type([1]), int)
