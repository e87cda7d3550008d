"""Moments in the one way that we write them, in logs, headers and JSON. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload


@overload
def rfc3339(moment: datetime | float) -> str: ...
@overload
def rfc3339(moment: datetime | float | None) -> str | None: ...
def rfc3339(moment: datetime | float | None) -> str | None:
    """A moment in UTC as RFC 3339 with milliseconds; None for None.

    Args:
        moment: a number is Unix time from a clock of ours; one from elsewhere goes through `message.utc` first.
    """
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
