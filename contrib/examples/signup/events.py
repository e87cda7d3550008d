"""The events that the services share: topics belong to no service."""

from __future__ import annotations

from dataclasses import dataclass

from busworker import Topic


@dataclass(frozen=True)
class UserRegistered:
    """Somebody has signed up."""

    user_id: int
    email: str


user_registered = Topic("user.registered", UserRegistered)
