"""One connection to the store's SQLite file: opened when first needed, once a process; reads and write transactions."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import apsw

from busworker.transports.engine import folder, lock, schema
from busworker.transports.engine.failures import RETRY_IN_PLACE, is_full, translated
from busworker.transports.engine.location import Location
from busworker.transports.engine.space import PAGE, Space
from busworker.uninterrupted import UNINTERRUPTED

BUSY_TIMEOUT_MS = 5000
"""How long SQLite waits for a lock of somebody who doesn't queue at ours, such as a person with a shell."""

CACHE_KIB = 512
"""What SQLite may keep of the file in the memory of each process; its default of 2 MiB fills up with the first backlog,
and is no faster here: what isn't in it is in the kernel's cache."""

Row = tuple["apsw.SQLiteValue", ...]

_SYNCHRONOUS = {"full": "FULL", "normal": "NORMAL", "off": "OFF"}


class Database:
    """A connection to one store.

    Guarantees: not used over a fork: a child opens its own and leaves the parent's, neither using nor closing it
    (https://www.sqlite.org/howtocorrupt.html, section 2.6). Several may be open in one process. A command that is told
    to end finishes the transaction that is under way (`uninterrupted`).
    """

    def __init__(self, location: Location, space: Space) -> None:
        self.path = location.database
        self._space = space
        self._durable = _SYNCHRONOUS[location.durability]
        self._lock = lock.of(location.folder / "lock")
        self._connection: apsw.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._synchronous = ""
        self._use = lock.InUse()
        _databases.add(self)

    def replaced(self) -> bool:
        """Whether the file that is open isn't the one at its path any more: removed, or another bus by now."""
        return self._connection is not None and _identity(self.path) != self._file

    def read(self, sql: str, bindings: apsw.Bindings = ()) -> list[Row]:
        """The rows of a query, in a read transaction that has ended when this returns.

        Raises:
            BrokerUnavailable: the store can't be read now.
        """
        with UNINTERRUPTED, translated(self.path):
            connection = self._open()
            with self._use:
                return connection.execute(sql, bindings).fetchall()

    @contextmanager
    def snapshot(self) -> Generator[apsw.Connection]:
        """A read transaction: every query in the block sees the same state. Keep it short.

        Raises:
            BrokerUnavailable: the store can't be read now.
        """
        with UNINTERRUPTED, translated(self.path):
            connection = self._open()
            with self._use:
                connection.execute("BEGIN")
                try:
                    yield connection
                finally:
                    connection.execute("ROLLBACK")

    @contextmanager
    def write(self, *, durable: bool, adding: bool = False) -> Generator[apsw.Connection]:
        """A write transaction, committed at the end of the block, rolled back if the block raises.

        Args:
            durable: whether it survives a power cut once the block has ended. If not, it survives any crash of a
                process, and no later transaction survives a power cut without it (both are in one log).
            adding: it only adds, so that on a full disk it may fail. Others then free the reserve: the next one has
                the space.

        Raises:
            BrokerUnavailable: nothing was done.
        """
        with UNINTERRUPTED, translated(self.path), self._lock, self._use:
            try:
                yield from self._transaction(self._durable if durable or self._durable == "OFF" else "NORMAL")
            except apsw.Error as error:
                if is_full(error) and not adding and self._space.give_up():
                    self.write_back()
                raise

    def close(self) -> None:
        """Closes the connection; the next use opens it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with self._use:
                connection.close()

    def leave(self) -> None:
        """In a forked child: leaves the parent's connection alone for ever, even at the end of the interpreter."""
        if self._connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
        self._connection = None

    def _transaction(self, synchronous: str) -> Generator[apsw.Connection]:
        connection = self._open_locked()
        if synchronous != self._synchronous:
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            self._synchronous = synchronous
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(error, apsw.Error) and not isinstance(error, RETRY_IN_PLACE):
                self.close()
            raise

    def write_back(self) -> None:
        """Writes the log back into the file, as far as readers and the disk allow now."""
        try:
            connection = self._open()
            with self._use:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except (apsw.BusyError, apsw.FullError, apsw.IOError):
            pass

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            with self._lock:
                self._connection = self._connect()
        return self._connection

    def _open_locked(self) -> apsw.Connection:
        if self.replaced():
            # Commits would go into a file that nobody else sees.
            self.close()
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> apsw.Connection:
        try:
            return self._connected()
        except apsw.Error as error:
            # The first connection makes the log and its index anew.
            if not (is_full(error) and self._space.give_up()):
                raise
            return self._connected()

    def _connected(self) -> apsw.Connection:
        folder.create(self.path)
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            schema.ensure(connection, self.path)
            log = self._space.log_pages
            # Not mapped (mmap_size): pages of a large backlog would count as memory of each process that reads them.
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}").fetchall()
            connection.execute(f"PRAGMA wal_autocheckpoint = {log}").fetchall()
            connection.execute(f"PRAGMA journal_size_limit = {2 * log * PAGE}").fetchall()
        except BaseException:
            connection.close()
            raise
        self._file = _identity(self.path)
        self._synchronous = ""
        return connection


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def version() -> str:
    """The version of SQLite."""
    return apsw.sqlite_lib_version()


def _leave_all() -> None:
    for database in list(_databases):
        database.leave()


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
os.register_at_fork(after_in_child=_leave_all)
