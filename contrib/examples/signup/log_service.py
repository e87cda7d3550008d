"""The service `log`: sees every event of the bus, of whatever topic."""

from __future__ import annotations

from record import record

from busworker import Bus, Json, Message, Pattern

bus = Bus("log")
everything = bus.channel("everything")


@everything.subscribe(Pattern("#"))
def log(event: Json, message: Message) -> None:
    """Notes an event."""
    record(message)
