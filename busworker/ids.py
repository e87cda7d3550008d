"""Ids of messages, which tell when they were made: UUIDs of version 7 (RFC 9562, 5.7) as 32 hexadecimal digits."""

from __future__ import annotations

import itertools
import secrets

LENGTH = 32
_TIME = 12
"""Digits of the milliseconds of the Unix time, at the front."""
_VERSION, _VARIANT = "7", "8"


class Ids:
    """Ids of one process: its random part is drawn once, and they are counted, which takes a tenth of the time.

    Threads may share it: the number alone tells apart what a process makes. After four thousand million it has a digit
    more.
    """

    def __init__(self) -> None:
        random = secrets.token_hex(5)
        self._process = f"{_VERSION}{random[:3]}{_VARIANT}{random[3:]}"
        self._numbers = itertools.count(1)
        self._milliseconds, self._front = 0, ""

    def new(self, now: float) -> str:
        """One more, made at that Unix time."""
        milliseconds = int(now * 1000)
        if milliseconds != self._milliseconds:
            self._milliseconds, self._front = milliseconds, f"{milliseconds:012x}{self._process}"
        return f"{self._front}{next(self._numbers):08x}"


def made_at(id: str, timestamp: int) -> float:
    """When a message was published, as Unix time: in milliseconds if its id tells them, and agrees with its timestamp.

    Args:
        id: of whatever kind.
        timestamp: of the message, in whole seconds.
    """
    if len(id) != LENGTH or id[_TIME] != _VERSION:
        return timestamp
    try:
        moment = int(id[:_TIME], 16) / 1000
    except ValueError:
        return timestamp
    return moment if abs(moment - timestamp) < 2 else timestamp
