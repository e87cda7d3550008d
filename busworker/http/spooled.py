"""How many messages the spool holds. A process of its own counts them: opening a store takes SQLite, and time."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from busworker.names import SPOOL_QUEUE

EVERY = 10.0
"""Seconds between two looks. Nothing is counted where no file has changed since the last one."""
PATIENCE = 10.0
_COUNT = "import sys; from busworker.transports import count_messages; print(count_messages(*sys.argv[1:]))"


class Spooled:
    """The messages in a spool.

    Args:
        folder: the spool's, which may not be there yet.

    Attributes:
        messages: how many it held when it was looked at last; None: they couldn't be counted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: object = None
        self.messages: int | None = None

    async def keep(self) -> None:
        """Looks for ever."""
        while True:
            seen = self._look()
            if seen != self._seen or self.messages is None:
                self.messages = await self._count() if seen else 0
                self._seen = seen
            await asyncio.sleep(EVERY)

    def _look(self) -> list[tuple[str, int, int]]:
        """Name, size and time of change of each file there."""
        try:
            found = [(entry.name, entry.stat()) for entry in os.scandir(self._folder)]
        except OSError:
            return []
        return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)

    async def _count(self) -> int | None:
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _COUNT, f"filesystem://{quote(str(self._folder))}", SPOOL_QUEUE),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError:  # no room for a process
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                said, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            return None
        return int(said) if said.strip().isdigit() else None
