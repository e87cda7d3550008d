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
SUBSCRIPTIONS = {
    "email": "user.registered/email.welcome",
    "points": "user.registered/points.award",
    "log": "#/log.everything",
    "campaign": "user.registered/campaign.spring",
}
"""What each service subscribes to."""
