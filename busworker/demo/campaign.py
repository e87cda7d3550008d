"""The service `campaign`: comes later; no publisher has to change, or to be restarted, for it."""

from __future__ import annotations

from busworker import Bus
from busworker.demo.events import UserRegistered, user_registered
from busworker.demo.record import executing

bus = Bus("campaign")
bus.around_attempt(executing)
spring = bus.channel("spring")


@spring.subscribe(user_registered)
def add_to_campaign(event: UserRegistered) -> None:
    """Adds a user to the spring campaign."""
