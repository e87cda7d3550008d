"""Where a service's files lie: lock and scoreboards in the state folder, the socket in the runtime folder.

Every process finds them by the same key of (service, broker, instance), so they meet without being told.
"""

from __future__ import annotations

import os
import stat
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

import platformdirs

from busworker.errors import ConfigurationError
from busworker.urls import bus_identity

_FALLBACK = "/tmp"  # fixed, whatever TMPDIR says: every process must look at the same place


def default_broker() -> str:
    """The URL of the bus that one user's services share; makes nothing."""
    return f"filesystem://{quote(str(_state_path() / 'bus'))}"


def state_dir() -> Path:
    """`$XDG_STATE_HOME/busworker`, made with mode 0700.

    Raises:
        ConfigurationError: it can't be made, or belongs to somebody else.
    """
    return private_folder(_state_path())


def runtime_dir() -> Path:
    """`$XDG_RUNTIME_DIR/busworker`, or a fixed folder under /tmp without that variable; made with mode 0700.

    Raises:
        ConfigurationError: it can't be made, or belongs to somebody else.
    """
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if Path(given).is_absolute():  # a relative one is to be ignored (XDG Base Directory Specification)
        return private_folder(Path(given) / "busworker")
    return private_folder(Path(_FALLBACK) / f"busworker-run-{os.getuid()}")


def instance_key(service: str, broker: str, instance: str) -> str:
    """16 hexadecimal digits that stand for a running service.

    Guarantees:
        The same for every spelling of one bus: user, password and options of the URL don't count.
    """
    text = "\0".join((service, bus_identity(broker), instance))
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def socket_path(key: str) -> Path:
    """The control socket of a running service."""
    return runtime_dir() / f"{key}.sock"


def lock_path(key: str) -> Path:
    """The file a supervisor locks as long as it lives; its folder is made."""
    return private_folder(state_dir() / key) / "lock"


def lock_file(key: str) -> Path:
    """As `lock_path`; makes nothing."""
    return _state_path() / key / "lock"


def board_path(key: str, channel: str) -> Path:
    """The scoreboard of a pool; its folder is made."""
    return private_folder(state_dir() / key) / f"{channel}.board"


def private_folder(path: Path) -> Path:
    """The folder itself, made if it isn't there: this user's, and with mode 0700.

    Raises:
        ConfigurationError: it can't be made, is no folder, or belongs to somebody else, who could read or
            replace what is in it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode) and path.parent.lstat().st_uid == os.getuid():
            found = path.stat()  # a link that only this user can have made
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigurationError(f"folder {path} isn't this user's own: remove it, or set another place")
        if found.st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(f"folder {path} can't be used: {error.strerror or error}") from error
    return path


def _state_path() -> Path:
    return platformdirs.user_state_path("busworker")
