"""What the demo's handlers and its publisher write down as they go, so that the end can be counted.

One line is one write(2) to a file opened with O_APPEND: processes never mix their lines, and a killed one leaves
none by halves.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

from busworker import Message

FOLDER = "BUSWORKER_DEMO_FOLDER"
"""The environment variable by which the demo tells its processes where they write."""
PUBLISHER = "signup"
BEGINS, ENDS = "begins", "ends"
GROUP, CONFIRMED = "group", "confirmed"


def executing(message: Message) -> Generator[None, None, None]:
    """Writes down that a handler begins, and that it has returned. For `around_attempt`."""
    service = message.channel.partition(".")[0]
    write(service, f"{BEGINS} {message.id} {message.attempt}")
    yield
    write(service, f"{ENDS} {message.id} {message.attempt}")


def write(name: str, *lines: str) -> None:
    """Appends lines to a file of the demo."""
    descriptor = os.open(records(Path(os.environ[FOLDER]), name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, "".join(f"{line}\n" for line in lines).encode())
    finally:
        os.close(descriptor)


def records(folder: Path, name: str) -> Path:
    """The file of a service, or the publisher's."""
    return folder / f"{name}.records"
