"""Looking without touching: counts and pages of a queue, each in one short read transaction.

A long one would keep the log from being checkpointed: it grew to 157 MB behind an open cursor.
"""

from __future__ import annotations

from collections.abc import Generator

import msgspec

from busworker.transports.engine.cells import integer
from busworker.transports.engine.database import Database
from busworker.transports.engine.records import DELIVERY, Delivery, Found, QueueRecord, deliveries

STEP = 20_000
"""Messages that are searched in one transaction: some 10 ms."""


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


def find(database: Database, text: str) -> Generator[list[Found]]:
    """Messages whose properties contain a text, all there are, the oldest first; a list for each part of the store.

    A scan: an index would be paid by each publish. Bodies aren't read.
    """
    query = (
        "SELECT queue.name, seq, exchange, routing_key, properties, body, expires, "
        "EXISTS (SELECT 1 FROM claimed WHERE claimed.queue = message.queue AND claimed.seq = message.seq) "
        "FROM message JOIN queue ON queue.id = message.queue "
        "WHERE seq > ?1 AND seq <= ?2 AND instr(properties, ?3) ORDER BY seq"
    )
    end = "SELECT max(seq) FROM (SELECT seq FROM message WHERE seq > ? ORDER BY seq LIMIT ?)"
    done = 0
    while (until := database.read(end, (done, STEP))[0][0]) is not None:
        rows = database.read(query, (done, until, text.encode("utf-8", "surrogatepass")))
        yield msgspec.convert(rows, list[Found], strict=False)
        done = integer(until)


def published_once(database: Database, once: bytes) -> float | None:
    """When (Unix time) a message was published once, if that is remembered."""
    rows = database.read("SELECT at FROM seen WHERE key = ?", (once,))
    return integer(rows[0][0]) / 1000 if rows else None
