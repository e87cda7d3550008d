"""Who uses a bus in memory: its content goes with its last user.

Every user holds a shared flock on the file `users`. Whoever opens the bus first tries for the exclusive one: getting
it means that nobody uses the bus, so what a dead user left is wiped. Nobody opens the database before it holds the
shared lock; so it does no harm that flock(2) lets go for an instant when it changes from exclusive to shared.
"""

from __future__ import annotations

import fcntl
from pathlib import Path

from busworker.transports.engine import folder
from busworker.transports.engine.inherited import keep_private

_KEPT = {"users", "lock"}


def join(path: Path) -> int:
    """Becomes a user of the bus in this folder.

    Returns:
        The descriptor that holds the lock: closing it (`inherited.close`) leaves the bus. Forked children don't have
        it.
    """
    users = keep_private(folder.open_file(path / "users"))
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        _wipe(path)
    fcntl.flock(users, fcntl.LOCK_SH)
    return users


def _wipe(path: Path) -> None:
    # The lock file stays: who holds a lock on a file that is gone excludes nobody.
    for entry in [*path.glob("*"), *(path / folder.CLAIMS).glob("*"), *(path / folder.WAKE).glob("*")]:
        if entry.name not in _KEPT and not entry.is_dir():
            entry.unlink(missing_ok=True)
