"""The store's folder: made with its subfolders, checked, and its files given the folder's group and mode."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from busworker.errors import BrokerUnavailable, ConfigurationError
from busworker.transports.engine.failures import translated

CLAIMS = "claims"
WAKE = "wake"

# SQLite's WAL needs memory shared by all processes and byte-range locks that work: "All processes using a database
# must be on the same host computer" (https://www.sqlite.org/wal.html).
_NETWORK = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ncpfs",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "gpfs",
        "beegfs",
        "9p",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.s3fs",
    ]
)


def prepare(path: Path, *, private: bool = False) -> None:
    """Makes the folder and its subfolders where they don't exist. Safe against others who do the same.

    Args:
        path: the store's folder.
        private: in memory: the parent is this user's, and nobody else's.

    Raises:
        BrokerUnavailable: it can't be made or written.
        ConfigurationError: it lies on a network file system.
    """
    with translated(path):
        if private:
            _make_private(path.parent)
        path.mkdir(parents=True, exist_ok=True)
        refuse_network(path)
        for name in (CLAIMS, WAKE):
            _make_like(path / name, path)
    if not os.access(path, os.W_OK | os.X_OK):
        raise BrokerUnavailable(f"store {path} can't be written: check the folder's owner and mode")


def open_file(path: Path) -> int:
    """A descriptor of a file in the store, made like its folder if it doesn't exist. Not inherited by programs."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        create(path)
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def create(path: Path) -> None:
    """Makes an empty file with the store folder's group and mode; leaves one alone that exists.

    Never opens an existing file: closing it again would drop the locks that SQLite holds on it in this process
    (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    os.close(descriptor)
    adopt(path, path.parent, 0o666)


def adopt(path: Path, parent: Path, bits: int) -> None:
    """Gives a new file its folder's group and those of its mode bits."""
    like = parent.stat()
    if path.stat().st_gid != like.st_gid:
        try:
            os.chown(path, -1, like.st_gid)
        except PermissionError:
            pass  # not a member of that group: then the mode decides
    path.chmod(stat.S_IMODE(like.st_mode) & bits)


def refuse_network(path: Path) -> None:
    """Raises ConfigurationError for a folder on a network file system."""
    kind = _file_system(path)
    if kind in _NETWORK:
        raise ConfigurationError(
            f"store {path} lies on a network file system ({kind}): choose a folder on a local disk"
        )


def _make_like(path: Path, parent: Path) -> None:
    try:
        path.mkdir(0o700)
    except FileExistsError:
        return
    adopt(path, parent, 0o7777)


def _make_private(path: Path) -> None:
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise BrokerUnavailable(f"folder {path} isn't this user's alone: remove it, or mend its owner and mode")


def _file_system(path: Path) -> str:
    # Fields: proc(5), /proc/pid/mountinfo. The last mount over the longest prefix is the one in force.
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except FileNotFoundError:
        return "unknown"
    found = (Path("/"), "unknown")
    for line in lines:
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].encode().decode("unicode_escape"))
        if path.resolve().is_relative_to(point) and len(point.parts) >= len(found[0].parts):
            found = (point, right.split()[0])
    return found[1]
