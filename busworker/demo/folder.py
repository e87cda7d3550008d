"""The folder of a demo: its bus, its records and its logs. It is kept, and removed by the next demo."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

LOCK = "lock"


def new_folder() -> Path:
    """A folder for this demo, in use as long as this process lives; those of earlier demos are removed."""
    for old in _idle():
        shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_prefix()))
    _locked(folder)
    return folder


def _idle() -> Iterator[Path]:
    """This user's demo folders that no demo is using; their locks are held until this process ends."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_prefix()}*"):
        found = folder.lstat()  # anybody may make such a name in a shared temporary folder
        if found.st_uid == os.getuid() and folder.is_dir() and not folder.is_symlink() and _locked(folder):
            yield folder


def _locked(folder: Path) -> bool:
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True


def _prefix() -> str:
    return f"busworker-demo-{os.getuid()}-"
