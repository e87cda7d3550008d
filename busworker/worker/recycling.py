"""When a worker is replaced although nothing is wrong with it: after so many messages, or over its memory limit."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from busworker.units import megabytes


class Recycling:
    """Counts a worker's messages, and looks at its memory between them.

    Args:
        max_messages: after how many it is replaced; None: never.
        memory_limit: bytes it may have resident when the next message begins; None: as many as it wants.
    """

    def __init__(self, max_messages: int | None, memory_limit: int | None) -> None:
        self._max_messages = max_messages
        self._memory_limit = memory_limit
        self._resident = _own_resident() if memory_limit is not None else None
        self._count = 0

    def reason(self) -> str | None:
        """Why the worker must be replaced now that another message has ended; None: it needn't."""
        self._count += 1
        if self._max_messages is not None and self._count >= self._max_messages:
            return f"max_messages={self._max_messages} are done"
        if self._memory_limit is not None and self._resident is not None:
            resident = self._resident()
            if resident > self._memory_limit:
                return (
                    f"it has {megabytes(resident)} resident, over the memory_limit of {megabytes(self._memory_limit)}"
                )
        return None


def _own_resident() -> Callable[[], int]:
    psutil = importlib.import_module("psutil")  # 30 ms that a channel without a limit needn't pay
    process = psutil.Process()
    return lambda: cast("int", process.memory_info().rss)
