"""Whose claims: a file with a flock that lives exactly as long as the claimer.

A claimer is known to the store by its file's path, relative if it lies in the store's folder (which may be mounted
elsewhere in another container). A claim is abandoned when its file is gone or nobody holds the lock.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

from busworker.transports.engine import folder
from busworker.transports.engine.inherited import close, keep_private


class ClaimFile:
    """A claim file of our own: locked from its creation on, before the store knows its name.

    Guarantees: a forked child holds neither the lock nor the right to remove the file.
    """

    def __init__(self, store: Path) -> None:
        self.name = f"{folder.CLAIMS}/{os.getpid()}-{secrets.token_hex(6)}.lock"
        self._path = store / self.name
        self._pid = os.getpid()
        self._descriptor = keep_private(folder.open_file(self._path))
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        """Removes the file and lets the lock go. Call it once the store has forgotten the name."""
        if self._pid == os.getpid():
            self._path.unlink(missing_ok=True)
            close(self._descriptor)


def name_of(path: str | Path, store: Path) -> str:
    """The name under which the store knows a claim file."""
    absolute = Path(path).absolute()
    return str(absolute.relative_to(store) if absolute.is_relative_to(store) else absolute)


def is_abandoned(path: str | Path) -> bool:
    """Whether nobody holds the lock on a claim file.

    The probe holds the lock for an instant itself: whoever takes such a lock without waiting tries again.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except PermissionError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def is_ours(name: str) -> bool:
    """Whether a claimer's name is that of a claim file made by `ClaimFile`."""
    return name.startswith(f"{folder.CLAIMS}/")
