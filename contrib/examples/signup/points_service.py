"""The service `points`: gives each new user points."""

from __future__ import annotations

from events import UserRegistered, user_registered
from record import record

from busworker import Bus, Message

bus = Bus("points")
award = bus.channel("award")


@award.subscribe(user_registered)
def award_points(event: UserRegistered, message: Message) -> None:
    """Gives a user points."""
    record(message)
