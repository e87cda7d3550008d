"""Publishing events of their topics' types, and receipts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, assert_type

from busworker import Bus, EncodeError, PublishFailed, Receipt, Topic


@dataclass(frozen=True)
class UserRegistered:
    user_id: int


@dataclass(frozen=True)
class AdminRegistered(UserRegistered):
    rights: tuple[str, ...] = ()


class Counted(TypedDict):
    word: str
    count: int


user_registered = Topic("user.registered", UserRegistered)
counted = Topic("word.counted", Counted)
numbers = Topic("numbers", list[int])
text = Topic("text", str)
anything = Topic("anything", object)

assert_type(user_registered, Topic[UserRegistered])
assert_type(numbers, Topic[list[int]])
assert_type(counted, Topic[Counted])

bus = Bus("signup")


def publish_all() -> None:
    receipt = bus.publish(user_registered, UserRegistered(42))
    assert_type(receipt, Receipt)
    assert_type(receipt.id, str)
    assert_type(receipt.state, Literal["pending", "confirmed", "failed", "unknown"])
    assert_type(receipt.error, Exception | None)
    assert_type(receipt.wait(timeout=5), Receipt)
    bus.publish(user_registered, AdminRegistered(1), id="m1", headers={"a": 1, "b": [b"x"]}, correlation_id="c")
    bus.publish(counted, Counted(word="a", count=1), delay="10m")
    bus.publish(numbers, [1, 2], immediately=True)
    bus.publish(text, "hello", delay=0.5)
    bus.publish(anything, {"a": None})
    bus.flush(timeout=1)
    bus.close()


async def publish_and_await() -> str:
    try:
        receipt = await bus.publish(text, "hello")
    except (EncodeError, PublishFailed) as error:
        return str(error)
    assert_type(receipt, Receipt)
    return receipt.id
