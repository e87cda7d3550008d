"""Handlers that don't fit what they subscribe to: each error is at a marked line, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from busworker import Bus, Json, Message, Pattern, RetryPolicy, Topic


@dataclass(frozen=True)
class UserRegistered:
    user_id: int


@dataclass(frozen=True)
class UserMoved:
    user_id: int


class Counted(TypedDict):
    word: str


user_registered = Topic("user.registered", UserRegistered)
counted = Topic("word.counted", Counted)
number = Topic("number", int)
numbers = Topic("numbers", list[int])

bus = Bus("email")
channel = bus.channel("welcome")


@channel.subscribe(user_registered)  # error
def of_another_event(event: UserMoved) -> None: ...


@channel.subscribe(user_registered)  # error
async def async_of_another_event(event: UserMoved) -> None: ...


@channel.subscribe(user_registered)  # error
def with_a_message_and_another_event(event: UserMoved, message: Message) -> None: ...


@channel.subscribe(user_registered)  # error
def with_another_second_parameter(event: UserRegistered, message: str) -> None: ...


@channel.subscribe(user_registered)  # error
def with_three(event: UserRegistered, message: Message, third: int) -> None: ...


@channel.subscribe(user_registered)  # error
def without_parameters() -> None: ...


@channel.subscribe(counted)  # error
def of_a_plain_dict(event: dict[str, str]) -> None: ...


@channel.subscribe(number)  # error
def of_another_builtin(event: str) -> None: ...


@channel.subscribe(numbers)  # error
def of_another_list(event: list[str]) -> None: ...


@channel.subscribe(Pattern("user.*"))  # error
def of_a_pattern_with_a_type(event: UserRegistered) -> None: ...


@channel.subscribe(Pattern("user.*"))  # error
def of_a_pattern_with_a_dict(event: dict[str, Json]) -> None: ...


channel.subscribe("user.registered")  # error
channel.subscribe(UserRegistered)  # error
channel.subscribe(user_registered, retry=5)  # error
channel.subscribe(user_registered, retries=RetryPolicy())  # error
channel.subscribe(user_registered, RetryPolicy())  # error
RetryPolicy(dead_on=KeyError)  # error
RetryPolicy(delays=("5s",))  # error
bus.channel("c", processes="2")  # error
bus.channel("c", 2)  # error
