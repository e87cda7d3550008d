"""The service `sizes`: adds up the installed sizes of each section."""

from __future__ import annotations

from events import PackageSeen, package_seen
from totals import Totals

from busworker import Bus, Message

bus = Bus("sizes")
counting = bus.channel("counting", processes=2)
totals = Totals("sizes")
bus.on_worker_start(totals.open)


@counting.subscribe(package_seen, time_limit=60)
def count(event: PackageSeen, message: Message) -> None:
    """Adds one package."""
    totals.add(message.id, event.section, event.installed_size)
