"""The checkup of a whole store, and its repair: in place, or into a new file if SQLite's own is damaged.

Services may go on meanwhile: writers wait for the lock, fail after some seconds and try again, and whoever has the
damaged file open notices that another one is in its place.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import msgspec

from busworker.errors import BrokerUnavailable
from busworker.transports.engine import folder, integrity, lock, salvage, schema
from busworker.transports.engine.cells import integer
from busworker.transports.engine.failures import translated
from busworker.transports.engine.location import Location


class Checkup(msgspec.Struct, frozen=True):
    """What was found. `damage` and `contradictions` are lines for people; without any the store is whole.

    `size` and `free` are in bytes; the counts are None where they can't be read.
    """

    damage: list[str]
    contradictions: list[str]
    size: int
    free: int | None = None
    queues: int | None = None
    ready: int | None = None
    claimed: int | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.damage or self.contradictions)


class Repair(msgspec.Struct, frozen=True):
    """What was done: the checkup before and after; where the damaged file lies, if it had to be replaced."""

    before: Checkup
    after: Checkup
    damaged: Path | None = None


def check(location: Location) -> Checkup:
    """Reads the whole store.

    Raises:
        BrokerUnavailable: there is none, it can't be read now, or its schema isn't this version's.
    """
    with _opened(location) as connection:
        return _checkup(connection, location.database)


def repair(location: Location, home: str) -> Repair:
    """Repairs a store.

    Args:
        location: where it lies.
        home: the queue for messages whose own queue is gone.

    Guarantees: what is found wrong in a sound file is mended in one transaction. A damaged file is kept, under another
    name, beside the new one that holds what could be read; killed in between, the old one is there still.

    Raises:
        BrokerUnavailable: as `check`; or a damaged file can't be read at all.
    """
    before = check(location)
    damaged = None
    if not before.whole:
        # To the end without a gap: what is published meanwhile would go into the file that is replaced.
        with translated(location.database), lock.of(location.folder / "lock"):
            if before.damage:
                damaged = _replace(location.database, _salvaged(location, home))
            else:
                _mend(location, home)
    return Repair(before, check(location) if not before.whole else before, damaged)


@contextmanager
def _opened(location: Location) -> Generator[apsw.Connection]:
    if not location.database.exists():
        raise BrokerUnavailable(f"there is no store at {location.folder}: publish or start something first")
    path = location.database
    with translated(path), closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
        connection.set_busy_timeout(round(lock.PATIENCE * 1000))
        schema.require(connection, path)
        yield connection


@contextmanager
def _transaction(connection: apsw.Connection) -> Generator[None]:
    connection.execute("PRAGMA synchronous = FULL; BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def _checkup(connection: apsw.Connection, path: Path) -> Checkup:
    size = path.stat().st_size
    damage = integrity.damage(connection)
    if damage:
        return Checkup(damage, [], size)
    connection.execute("BEGIN")
    try:
        page, free, *counts = (
            integer(connection.execute(query).fetchall()[0][0])
            for query in (
                "PRAGMA page_size",
                "PRAGMA freelist_count",
                *(f"SELECT count(*) FROM {table}" for table in ("queue", "ready", "claimed")),
            )
        )
        return Checkup([], integrity.contradictions(connection), size, free * page, *counts)
    finally:
        connection.execute("ROLLBACK")


def _mend(location: Location, home: str) -> None:
    with _opened(location) as connection, _transaction(connection):
        integrity.mend(connection, home)


def _salvaged(location: Location, home: str) -> Path:
    path = location.folder / "bus.db.repaired"
    path.unlink(missing_ok=True)
    folder.create(path)
    with (
        _opened(location) as connection,
        closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as fresh,
    ):
        schema.ensure(fresh, path)
        with _transaction(fresh):
            salvage.copy(connection, fresh)
            integrity.mend(fresh, home)
        _empty_log(connection)
    return path


def _empty_log(connection: apsw.Connection) -> None:
    # Killed between the log's renaming and the file's, we would leave a file without what was only in the log.
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.Error:
        pass  # a reader is in the way, or it is damaged too: it is kept beside the damaged file


def _replace(path: Path, fresh: Path) -> Path:
    # The log goes first: beside the new file it would be read as the new one's.
    damaged = _unused(path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"))
    os.link(path, damaged)
    log = path.with_name(f"{path.name}-wal")
    if log.exists():
        log.rename(f"{damaged}-wal")
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    fresh.rename(path)
    return damaged


def _unused(path: Path) -> Path:
    # A repair that was killed may have taken the name a moment ago.
    names = itertools.chain([path], (path.with_name(f"{path.name}.{number}") for number in itertools.count(2)))
    return next(name for name in names if not name.exists())
