"""A total per section in SQLite, idempotent by message id: a message that runs again changes nothing."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path


class Totals:
    """Totals in the file `NAME.db` of the folder `DEBIAN_OUTPUT` (default: `debian-output`).

    Guarantees: an id counts once, whatever is killed when: it is remembered in the transaction that adds.
    """

    def __init__(self, name: str) -> None:
        self._path = Path(os.environ.get("DEBIAN_OUTPUT", "debian-output")) / f"{name}.db"
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Opens the file; once in each worker, because a connection must not be carried over a fork."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE IF NOT EXISTS seen(id TEXT PRIMARY KEY) WITHOUT ROWID")
        connection.execute("CREATE TABLE IF NOT EXISTS total(section TEXT PRIMARY KEY, amount INTEGER) WITHOUT ROWID")
        self._connection = connection

    def add(self, message_id: str, section: str, amount: int) -> None:
        """Adds an amount to a section's total, unless this message has been counted."""
        assert self._connection is not None
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        try:
            if run("INSERT OR IGNORE INTO seen VALUES (?)", (message_id,)).rowcount:
                run(
                    "INSERT INTO total VALUES (?, ?) "
                    "ON CONFLICT (section) DO UPDATE SET amount = amount + excluded.amount",
                    (section, amount),
                )
            run("COMMIT")
        except BaseException:
            run("ROLLBACK")
            raise
