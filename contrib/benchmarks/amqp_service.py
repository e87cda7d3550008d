"""The service whose rates `amqp_rates.py` takes. Its handlers do nothing but be counted: a byte in a file each."""

from __future__ import annotations

import os
import time

from busworker import Bus, Topic

COUNTED, TIMES = "AMQP_RATES_COUNTED", "AMQP_RATES_TIMES"
EVENT = {"user_id": 42, "email": "somebody@example.org", "note": "x" * 92}
"""About 150 bytes of JSON."""

noop = Topic("bench.noop", dict[str, object])
timed = Topic("bench.timed", float)
bus = Bus("bench")

_files: dict[str, int] = {}


def append(variable: str, text: bytes) -> None:
    """Adds to the file that a variable names; whole, whoever else does (O_APPEND, open(2))."""
    if variable not in _files:
        _files[variable] = os.open(os.environ[variable], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_files[variable], text)


@bus.channel("noop", processes=2).subscribe(noop)
def nothing(event: dict[str, object]) -> None:
    """Is counted."""
    append(COUNTED, b".")


@bus.channel("timed", processes=2).subscribe(timed)
def note_time(published: float) -> None:
    """Writes down how long the message took."""
    append(TIMES, b"%f\n" % (time.time() - published))
