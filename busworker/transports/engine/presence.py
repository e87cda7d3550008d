"""What one connection has in one process: its places in the store's folder, and what it knows of the store."""

from __future__ import annotations

import os
import time

from busworker.transports.engine import folder, users
from busworker.transports.engine.claimfile import ClaimFile
from busworker.transports.engine.database import Database
from busworker.transports.engine.failures import translated
from busworker.transports.engine.inherited import close
from busworker.transports.engine.location import Location
from busworker.transports.engine.space import Space
from busworker.transports.engine.topology import Topology
from busworker.transports.engine.wakeup import Fifo


class Presence:
    """A connection in this process. A forked child makes another one, and leaves its parent's alone.

    Args:
        location: the store; its folder is made if it doesn't exist.

    Raises:
        BrokerUnavailable: the folder can't be made or written.
        ConfigurationError: it lies on a network file system.
    """

    def __init__(self, location: Location) -> None:
        self._folder = location.folder
        folder.prepare(self._folder, private=location.memory)
        with translated(self._folder):
            self._users = users.join(self._folder) if location.memory else None
            self.space = Space(self._folder, memory=location.memory)
        self.database = Database(location, self.space)
        self._pid = os.getpid()
        self._fifo: Fifo | None = None
        self._claim_file: ClaimFile | None = None
        self.claimer: int | None = None
        """Our number among the claimers, once we have claimed."""
        self.topology: Topology | None = None
        """The topology as last read."""
        self.due: int | None = None
        """When the next message expires, as last read, in milliseconds of the epoch."""
        self.next_upkeep = time.monotonic()
        self.last_write = 0.0
        """When our last transaction began, in monotonic seconds."""
        self.surplus = False
        """Whether there is more space to give back, as last seen."""

    @property
    def is_ours(self) -> bool:
        """Whether it is this process's, not its parent's."""
        return self._pid == os.getpid()

    @property
    def listening(self) -> bool:
        """Whether there is a FIFO."""
        return self._fifo is not None

    def fifo(self) -> Fifo:
        """Our FIFO, made when first asked for."""
        if self._fifo is None:
            with translated(self._folder):
                self._fifo = Fifo(self._folder)
        return self._fifo

    def claim_file(self) -> str:
        """The name of our own claim file, made and locked when first asked for."""
        if self._claim_file is None:
            with translated(self._folder):
                self._claim_file = ClaimFile(self._folder)
        return self._claim_file.name

    def close(self) -> None:
        """Removes our files and leaves; the store must have forgotten our claims and our FIFO before."""
        if self._fifo is not None:
            self._fifo.close()
        if self._claim_file is not None:
            self._claim_file.close()
        self.database.close()
        if self._users is not None:
            close(self._users)
            self._users = None
