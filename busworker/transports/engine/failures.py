"""What can go wrong in the store, in words for whoever must act: what, why, what to do, on one line."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import apsw

from busworker.errors import BrokerError, BrokerUnavailable


class MissingEntity(BrokerError):
    """A queue or an exchange that doesn't exist in the store."""


class Unroutable(BrokerError):
    """A mandatory message would reach no queue; nothing of its transaction was done."""

    def __init__(self, index: int, exchange: str, routing_key: str) -> None:
        super().__init__(f"routing key {routing_key!r} in exchange {exchange!r} leads to no queue")
        self.index = index
        """The message's place among the publishes of the transaction."""
        self.exchange = exchange
        self.routing_key = routing_key


# Result codes of SQLite that say something about the store or its disk (https://www.sqlite.org/rescode.html).
# The others are mistakes of ours and stay what they are.
_ADVICE: dict[type[apsw.Error], str] = {
    apsw.BusyError: "another program holds its lock; end that program, or wait",
    apsw.LockedError: "another program holds its lock; end that program, or wait",
    apsw.ReadOnlyError: "it can't be written; check the owner and mode of the folder and that the disk isn't read-only",
    apsw.FullError: "the disk is full; free some space",
    apsw.IOError: "the disk gave an error, or is full; check it, and that the folder still exists",
    apsw.CorruptError: "it is damaged; run `busworker check --store --repair`",
    apsw.NotADBError: "that file is no database; move it away, or choose another folder",
    apsw.CantOpenError: "it can't be opened; check that the folder exists, its owner and its mode",
    apsw.PermissionsError: "the permissions of the folder don't allow it; check its owner and mode",
    apsw.ProtocolError: "another program holds its lock; end that program, or wait",
}

RETRY_IN_PLACE = (apsw.BusyError, apsw.LockedError, apsw.FullError)
"""After these a connection is still good; after other failures it is opened anew."""


def is_full(error: apsw.Error) -> bool:
    """Whether it says that the disk is full."""
    return isinstance(error, apsw.FullError) or _no_index(error)


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Raises what apsw and the operating system say about a store as `BrokerUnavailable`."""
    try:
        yield
    except tuple(_ADVICE) as error:
        raise BrokerUnavailable(f"store {path} can't be used ({error}): {advice(error)}") from error
    except OSError as error:
        raise BrokerUnavailable(
            f"store {path} can't be used ({error.strerror or error}): check the folder, its owner, mode and disk"
        ) from error


def advice(error: apsw.Error) -> str:
    """What to do about an error."""
    if _no_index(error):
        return "there is no space for its index; free some space (a container's /dev/shm often has only 64 MB)"
    return next(text for kind, text in _ADVICE.items() if isinstance(error, kind))


def _no_index(error: apsw.Error) -> bool:
    return isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE
