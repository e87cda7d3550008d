"""pydantic models that don't fit their topics, and handlers of others."""

from __future__ import annotations

from pydantic import BaseModel

from busworker import Bus, Topic


class UserRegistered(BaseModel):
    user_id: int


class UserMoved(BaseModel):
    user_id: int


user_registered = Topic("user.registered", UserRegistered)
registered_together = Topic("users.registered", list[UserRegistered])
bus = Bus("signup")
channel = bus.channel("welcome")

moved: Topic[UserMoved] = user_registered  # error

bus.publish(user_registered, UserMoved(user_id=1))  # error
bus.publish(user_registered, {"user_id": 1})  # error
bus.publish(user_registered, UserRegistered(user_id=1).model_dump_json())  # error
bus.publish(user_registered, UserRegistered)  # error
bus.publish(user_registered, None)  # error
bus.publish(registered_together, UserRegistered(user_id=1))  # error
bus.publish(registered_together, [UserMoved(user_id=1)])  # error


@channel.subscribe(user_registered)  # error
def of_another_model(event: UserMoved) -> None: ...


@channel.subscribe(registered_together)  # error
async def of_one_alone(event: UserRegistered) -> None: ...
