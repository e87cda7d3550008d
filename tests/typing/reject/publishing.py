"""Events that don't fit their topics, and receipts used for what they aren't."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from busworker import Bus, Receipt, Topic


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
bus = Bus("signup")

Topic("user.registered")  # error
Topic(UserRegistered, "user.registered")  # error
moved: Topic[UserMoved] = user_registered  # error

bus.publish(user_registered, UserMoved(1))  # error
bus.publish(user_registered, {"user_id": 1})  # error
bus.publish(user_registered, UserRegistered)  # error
bus.publish(user_registered, None)  # error
bus.publish(user_registered)  # error
bus.publish("user.registered", UserRegistered(1))  # error
bus.publish(counted, {"word": 1})  # error
bus.publish(counted, {})  # error
bus.publish(number, "1")  # error
bus.publish(number, 1.5)  # error
bus.publish(numbers, ["1"])  # error
bus.publish(numbers, (1, 2))  # error
bus.publish(number, 1, id=7)  # error
bus.publish(number, 1, headers={7: 1})  # error
bus.publish(number, 1, "m1")  # error
bus.publish(number, 1, delay=b"1m")  # error


async def misuse(receipt: Receipt) -> None:
    receipt.state = "confirmed"  # error
    if receipt.state == "done":  # error
        print(receipt)
    word: str = await receipt  # error
    count: int = receipt.wait()  # error
    print(word, count, receipt.result)  # error
