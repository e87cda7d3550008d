"""Looking without touching: counts and pages of a queue, each in one short read transaction.

A long one would keep the log from being checkpointed: it grew to 157 MB behind an open cursor.
"""

from __future__ import annotations

from busworker.transports.engine.cells import integer
from busworker.transports.engine.database import Database
from busworker.transports.engine.records import DELIVERY, Delivery, QueueRecord, deliveries


def counts(database: Database, queue: QueueRecord) -> tuple[int, int]:
    """The number of ready and of claimed messages."""
    query = "SELECT ready, (SELECT count(*) FROM claimed WHERE claimed.queue = depth.queue) FROM depth WHERE queue = ?"
    rows = database.read(query, (queue.id,))
    return (integer(rows[0][0]), integer(rows[0][1])) if rows else (0, 0)


def dropped(database: Database, queue: QueueRecord) -> int:
    """How many messages the length limit has dropped since the queue was made."""
    rows = database.read("SELECT dropped FROM depth WHERE queue = ?", (queue.id,))
    return integer(rows[0][0]) if rows else 0


def consumers(database: Database, queue: QueueRecord) -> int:
    """How many connections consume."""
    return integer(database.read("SELECT count(*) FROM listener WHERE queue = ?", (queue.id,))[0][0])


def count_routing_key(database: Database, queue: QueueRecord, routing_key: str) -> int:
    """The number of messages with a routing key, ready and claimed; with a queue TTL by an index, else by a scan."""
    if queue.ttl is not None:
        query = "SELECT count(*) FROM message WHERE queue = ? AND routing_key = ? AND expires IS NOT NULL"
        return integer(database.read(query, (queue.id, routing_key))[0][0])
    query = (
        "SELECT count(*) FROM message WHERE routing_key = ?2 AND seq IN "
        "(SELECT seq FROM ready WHERE queue = ?1 UNION ALL SELECT seq FROM claimed WHERE queue = ?1)"
    )
    return integer(database.read(query, (queue.id, routing_key))[0][0])


def page(
    database: Database, queue: QueueRecord, cursor: int | None, limit: int, *, newest_first: bool
) -> list[Delivery]:
    """Ready messages of a queue beyond a cursor (the last page's last `seq`; None: from the beginning)."""
    compare, order = ("<", "DESC") if newest_first else (">", "ASC")
    beyond = cursor if cursor is not None else (1 << 62 if newest_first else 0)
    # Naming the one rank there is lets the index serve the order; with priorities the queue is sorted for each page.
    rank = "" if queue.max_priority else "AND rank = 0"
    query = (
        f"SELECT {DELIVERY} FROM ready JOIN message USING (seq) "
        f"WHERE ready.queue = ? {rank} AND ready.seq {compare} ? ORDER BY ready.seq {order} LIMIT ?"
    )
    return deliveries(database.read(query, (queue.name, queue.id, beyond, limit)))
