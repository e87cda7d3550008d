"""Space on the store's disk: publishes stop before it is full, and a reserve lets everything else go on.

A full disk would stop settlements too, and with them the only way to free space: deleting a message writes to the
log first. So publishes are refused while less than a mark is free, and a file with space set aside lies in the
folder. It is given up when somebody else fills the disk to the last byte, and made again when there is room.
"""

from __future__ import annotations

import os
from pathlib import Path

from busworker.errors import BrokerUnavailable
from busworker.transports.engine import folder

_LARGEST = 8 * 1024 * 1024
_SHARE = 16
_LONGEST_LOG = 1000
PAGE = 4096
"""Bytes of a page of the store: SQLite's default."""


class Space:
    """The space of one store.

    Args:
        store: its folder, which exists.
        memory: whether it lies in memory, where a large reserve costs more than it is worth.
    """

    def __init__(self, store: Path, *, memory: bool) -> None:
        self._store = store
        self._path = store / "reserve"
        self._hint = " (a container's /dev/shm often has only 64 MB)" if memory else ""
        disk = os.statvfs(store)
        self.reserve = min(_LARGEST // (8 if memory else 1), disk.f_blocks * disk.f_frsize // _SHARE)
        """Bytes set aside, and bytes that must be free besides for a publish: a sixteenth of a small disk."""

    @property
    def log_pages(self) -> int:
        """After how many pages the log is written back: what is in it must fit into the reserve, twice."""
        return max(16, min(_LONGEST_LOG, self.reserve // 2 // PAGE))

    def require(self, size: int) -> None:
        """Raises BrokerUnavailable if messages of `size` bytes may not be published."""
        if not self.has(size):
            raise BrokerUnavailable(
                f"store {self._store} takes no messages: {self._free() >> 10:,} KiB are free on its disk, "
                f"{self._needed(size) >> 10:,} KiB are needed; free some space{self._hint}"
            )

    def has(self, size: int) -> bool:
        """Whether messages of `size` bytes may be published."""
        return self._free() >= self._needed(size)

    def give_up(self) -> bool:
        """Frees the reserve, for those who make space; says whether there was one."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True

    def set_aside(self) -> None:
        """Makes the reserve, if there is none and enough is free that it isn't given up at once."""
        if self._path.exists() or self._free() < 3 * self.reserve:
            return
        folder.create(self._path)
        descriptor = folder.open_file(self._path)
        try:
            os.posix_fallocate(descriptor, 0, self.reserve)
        except OSError:
            self._path.unlink(missing_ok=True)  # somebody was faster to fill the disk
        finally:
            os.close(descriptor)

    def _needed(self, size: int) -> int:
        # Once in the log, once in the store.
        return self.reserve + 2 * size

    def _free(self) -> int:
        disk = os.statvfs(self._store)
        return disk.f_bavail * disk.f_frsize
