"""The service `points`: gives each new user points."""

from __future__ import annotations

from busworker import Bus
from busworker.demo.events import UserRegistered, user_registered
from busworker.demo.record import executing

bus = Bus("points")
bus.around_attempt(executing)
award = bus.channel("award")


@award.subscribe(user_registered)
def award_points(event: UserRegistered) -> None:
    """Gives a user points."""
