"""Clearing up after processes that died: their claims come back, their FIFOs and files go.

Whoever opens the store does it, and whoever waits for messages does it every few seconds. Each look is a read; the
write lock is taken only if there is something to do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from busworker.transports.engine import claimfile, folder, topology, wakeup
from busworker.transports.engine.cells import integer, text
from busworker.transports.engine.claims import give_back_all
from busworker.transports.engine.database import Database
from busworker.transports.engine.transaction import Transaction

KEPT_FREE = 256
"""Pages of free space that are kept for new messages, a MiB, besides a quarter of what is in use."""

FORGOTTEN = 60.0
"""Seconds after which a file that nobody uses, and that the store doesn't know, isn't about to be used either."""

STEP = 100
"""Pages given back in one transaction. They fit into the page cache: else some go into the log more than once, and a
full disk has no room for that."""


def abandoned(database: Database, store: Path, queues: Iterable[str] | None) -> list[str]:
    """Names of claimers whose process is dead.

    Args:
        database: the store's.
        store: its folder.
        queues: those with a claim file elsewhere which have claims on one of these; None: those with one in the store.
    """
    if queues is None:
        names = [text(row[0]) for row in database.read("SELECT path FROM claimer")]
        return [name for name in names if claimfile.is_ours(name) and claimfile.is_abandoned(_path(store, name))]
    query = (
        "SELECT path FROM claimer WHERE id IN (SELECT claimer FROM claimed WHERE queue = "
        "(SELECT id FROM queue WHERE name = ?))"
    )
    found = {text(row[0]) for queue in queues for row in database.read(query, (queue,))}
    foreign = sorted(name for name in found if not claimfile.is_ours(name))
    return [name for name in foreign if claimfile.is_abandoned(_path(store, name))]


def release(tx: Transaction, store: Path, name: str) -> None:
    """Makes a dead claimer's messages ready again, and forgets it."""
    give_back_all(tx, name)
    if claimfile.is_ours(name):
        (store / name).unlink(missing_ok=True)


def deaf(database: Database, store: Path) -> list[str]:
    """Names of FIFOs that nobody reads any more."""
    names = [text(row[0]) for row in database.read("SELECT DISTINCT fifo FROM listener")]
    return [name for name in names if wakeup.is_dead(_path(store, name))]


def forget_listener(tx: Transaction, store: Path, fifo: str) -> None:
    """Removes a listener everywhere; an auto-delete queue goes with its last one (AMQP 0-9-1, queue.declare)."""
    rows = tx.connection.execute("DELETE FROM listener WHERE fifo = ? RETURNING queue", (fifo,)).fetchall()
    for row in rows:
        delete_if_unused(tx, integer(row[0]))
    (store / fifo).unlink(missing_ok=True)


def _path(store: Path, name: str) -> str:
    """Of a claim file or FIFO; one that lies elsewhere is known by its whole path."""
    return os.path.join(store, name)  # noqa: PTH118  pathlib would intern the parts each time


def remove_strays(database: Database, store: Path) -> None:
    """Removes claim files and FIFOs of processes that died before the store knew them, or after it forgot them."""
    known = {text(row[0]) for row in database.read("SELECT path FROM claimer UNION SELECT fifo FROM listener")}
    for folder_name, is_free in ((folder.CLAIMS, claimfile.is_abandoned), (folder.WAKE, wakeup.is_dead)):
        for path in (store / folder_name).iterdir():
            if f"{folder_name}/{path.name}" not in known:
                with suppress(OSError):  # another one does the same, or it is another user's
                    if time.time() - path.stat().st_mtime > FORGOTTEN and is_free(path):
                        path.unlink()


def delete_if_unused(tx: Transaction, queue: int) -> None:
    """Deletes an auto-delete queue without listeners."""
    record = tx.topology.queues_by_id.get(queue)
    if record is None or not record.auto_delete:
        return
    if not tx.connection.execute("SELECT 1 FROM listener WHERE queue = ?", (queue,)).fetchall():
        topology.delete_queue(tx.connection, record)


def shrink(database: Database, *, everything: bool = False) -> bool:
    """Gives a step of free space back to the disk, `everything` or what isn't kept; says whether there is more.

    The file itself is cut when the log is written back (https://www.sqlite.org/pragma.html, incremental_vacuum).
    """
    free, pages = (integer(database.read(f"PRAGMA {name}")[0][0]) for name in ("freelist_count", "page_count"))
    surplus = free if everything else free - max(KEPT_FREE, (pages - free) // 4)
    if surplus <= 0:
        return False
    with database.write(durable=False, adding=True) as connection:
        connection.execute(f"PRAGMA incremental_vacuum({min(STEP, surplus)})").fetchall()
    if surplus > STEP:
        return True
    database.write_back()
    return False
