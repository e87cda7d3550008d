"""The service `audit`: notes every execution, so that those beyond one per message can be counted."""

from __future__ import annotations

import os
from pathlib import Path

from events import PackageSeen, package_seen

from busworker import Bus, Message

bus = Bus("audit")
trail = bus.channel("trail", processes=2)
descriptors: list[int] = []


@bus.on_worker_start
def open_trail() -> None:
    """Opens `audit.log`; each execution is one append, so workers never mix their lines (write(2), O_APPEND)."""
    folder = Path(os.environ.get("DEBIAN_OUTPUT", "debian-output"))
    folder.mkdir(parents=True, exist_ok=True)
    descriptors.append(os.open(folder / "audit.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644))


@trail.subscribe(package_seen, time_limit=60)
def note(event: PackageSeen, message: Message) -> None:
    """Writes down this execution."""
    os.write(descriptors[0], f"{message.id} {message.attempt} {event.package}\n".encode())
