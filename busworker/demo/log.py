"""The service `log`: sees every event of the bus, of whatever topic."""

from __future__ import annotations

from busworker import Bus, Json, Pattern
from busworker.demo.record import executing

bus = Bus("log")
bus.around_attempt(executing)
everything = bus.channel("everything")


@everything.subscribe(Pattern("#"))
def log(event: Json) -> None:
    """Notes an event."""
