"""pydantic models as events."""

from __future__ import annotations

from typing import Generic, TypeVar, assert_type

from pydantic import BaseModel, RootModel
from pydantic.dataclasses import dataclass

from busworker import Bus, Message, Topic

T = TypeVar("T")


class UserRegistered(BaseModel):
    user_id: int
    email: str | None = None


class AdminRegistered(UserRegistered):
    rights: list[str] = []


class Page(BaseModel, Generic[T]):
    items: list[T]


class Numbers(RootModel[list[int]]):
    pass


@dataclass
class Moved:
    user: UserRegistered


user_registered = Topic("user.registered", UserRegistered)
registered_together = Topic("users.registered", list[UserRegistered])
pages = Topic("pages", Page[UserRegistered])
numbers = Topic("numbers", Numbers)
moved = Topic("moved", Moved)

assert_type(user_registered, Topic[UserRegistered])
assert_type(registered_together, Topic[list[UserRegistered]])
assert_type(pages, Topic[Page[UserRegistered]])

bus = Bus("signup")


@bus.channel("welcome").subscribe(user_registered)
def send_mail(event: UserRegistered, message: Message) -> None:
    print(event.email, message.id)


@bus.channel("pages").subscribe(pages)
async def show(event: Page[UserRegistered]) -> None:
    assert_type(event.items[0].user_id, int)


def publish_all() -> None:
    bus.publish(user_registered, UserRegistered(user_id=42))
    bus.publish(user_registered, AdminRegistered(user_id=1))
    bus.publish(registered_together, [UserRegistered(user_id=42)])
    bus.publish(pages, Page[UserRegistered](items=[]))
    bus.publish(numbers, Numbers([1]))
    bus.publish(moved, Moved(UserRegistered(user_id=1)))
