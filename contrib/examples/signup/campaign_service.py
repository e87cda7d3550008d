"""The service `campaign`: came later; no publisher had to change for it."""

from __future__ import annotations

from events import UserRegistered, user_registered
from record import record

from busworker import Bus, Message

bus = Bus("campaign")
spring = bus.channel("spring")


@spring.subscribe(user_registered)
def add_to_campaign(event: UserRegistered, message: Message) -> None:
    """Adds a user to the spring campaign."""
    record(message)
