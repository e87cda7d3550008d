"""Wake-ups: a FIFO for each process that consumes, and a byte into it after a commit that gave its queues messages.

A byte is only a hint: it is lost when a publisher dies between its commit and the write, so consumers look at the
store once a second besides.
"""

from __future__ import annotations

import errno
import os
import secrets
import select
from collections.abc import Iterable
from pathlib import Path

from busworker.transports.engine import folder
from busworker.transports.engine.inherited import close, keep_private


class Fifo:
    """The FIFO of one consuming connection.

    It is opened for reading and writing, so that it never reports an end of file (fifo(7)).
    """

    def __init__(self, store: Path) -> None:
        self.name = f"{folder.WAKE}/{os.getpid()}-{secrets.token_hex(6)}"
        self._path = store / self.name
        self._pid = os.getpid()
        os.mkfifo(self._path, 0o600)
        folder.adopt(self._path, store, 0o666)
        self.descriptor = keep_private(os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        self._poll = select.poll()
        self._poll.register(self.descriptor, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Waits for a byte; takes all bytes there are and says whether there were any."""
        if not self._poll.poll(max(0.0, seconds) * 1000):
            return False
        try:
            os.read(self.descriptor, 65536)
        except BlockingIOError:
            pass
        return True

    def ring(self) -> None:
        """Makes the next wait end at once."""
        try:
            os.write(self.descriptor, b"\0")
        except BlockingIOError:
            pass  # it is full: then it ends anyway

    def close(self) -> None:
        """Removes the FIFO, if it is this process's."""
        if self._pid == os.getpid():
            self._path.unlink(missing_ok=True)
            close(self.descriptor)


def wake(store: Path, names: Iterable[str]) -> None:
    """Writes a byte into each FIFO; never waits, never fails."""
    for name in names:
        _write(f"{store}/{name}", b"\0")  # no Path: pathlib would intern its parts each time


def is_dead(path: str | Path) -> bool:
    """Whether nobody reads a FIFO: its process has died."""
    return not _write(path, b"")


def _write(path: str | Path, data: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        # Anything else (no permission, too many files) says nothing about the reader, who looks each second anyway.
        return error.errno not in (errno.ENXIO, errno.ENOENT)
    try:
        os.write(descriptor, data)
    except (BlockingIOError, BrokenPipeError):
        pass  # 65,536 bytes wait there already; or the reader has gone this instant
    finally:
        os.close(descriptor)
    return True
