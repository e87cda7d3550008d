"""Claims: messages that somebody holds, and what becomes of them. All within a `Transaction`."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import apsw

from busworker.transports.engine.cells import blob, integer, text
from busworker.transports.engine.records import Delivery, QueueRecord
from busworker.transports.engine.transaction import MESSAGE, Transaction, dead_letters, numbers

_DELIVERY = "message.seq, redelivered, exchange, routing_key, properties, body, expires"


def claim_fairly(
    tx: Transaction, claimer: int, wanted: Sequence[tuple[QueueRecord, int]], room: int
) -> list[Delivery]:
    """Claims from several queues, the oldest messages of each first.

    Args:
        tx: the transaction.
        claimer: who claims.
        wanted: queues, each with the number of messages it may give; the first ones are asked first.
        room: how many in all. Every queue gets an equal share of it; what one doesn't use goes to the others.
    """
    claimed: list[Delivery] = []
    hungry = deque(wanted)
    while hungry and room > 0:
        queue, most = hungry.popleft()
        share = min(most, max(1, room // (len(hungry) + 1)))
        got = _claim_head(tx, claimer, queue, share)
        claimed += got
        room -= len(got)
        if len(got) == share < most:
            hungry.append((queue, most - share))
    return claimed


def claim_one(tx: Transaction, claimer: int, queue: QueueRecord, seq: int) -> Delivery | None:
    """Claims a named message; None if it isn't ready in that queue."""
    query = f"SELECT {_DELIVERY} FROM ready JOIN message USING (seq) WHERE ready.queue = ? AND ready.seq = ?"
    rows = tx.connection.execute(query, (queue.id, seq)).fetchall()
    if not rows:
        return None
    tx.connection.execute("INSERT INTO claimed VALUES (?, ?, ?)", (claimer, seq, queue.id))
    tx.connection.execute("DELETE FROM ready WHERE queue = ? AND seq = ?", (queue.id, seq))
    return _claimed(tx, queue, rows)[0]


def acknowledge(tx: Transaction, claimer: int, seqs: Sequence[int]) -> None:
    """Deletes claimed messages. What isn't claimed by `claimer` (any more) is left alone."""
    tx.connection.executemany(
        "DELETE FROM message WHERE seq = (SELECT seq FROM claimed WHERE claimer = ? AND seq = ?)",
        [(claimer, seq) for seq in seqs],
    )
    _unclaim(tx, claimer, seqs)


def reject(tx: Transaction, claimer: int, seqs: Sequence[int]) -> None:
    """Takes claimed messages out of their queues for good, to the dead-letter exchange if there is one."""
    query = f"SELECT {MESSAGE} FROM claimed JOIN message USING (seq) WHERE claimer = ? AND {_AMONG}"
    letters = dead_letters(tx.connection.execute(query, (claimer, numbers(seqs))))
    acknowledge(tx, claimer, seqs)
    tx.dead_letter(letters, "rejected")


def give_back(tx: Transaction, claimer: int, seqs: Sequence[int]) -> None:
    """Makes claimed messages ready again, in their old places, marked as redelivered."""
    _give_back(tx, f"claimer = ? AND {_AMONG}", (claimer, numbers(seqs)))


def give_back_all(tx: Transaction, path: str) -> None:
    """Makes everything ready again that the claimer of this path holds, and forgets the claimer."""
    _give_back(tx, "claimer = (SELECT id FROM claimer WHERE path = ?)", (path,))
    tx.connection.execute("DELETE FROM claimer WHERE path = ?", (path,))


_AMONG = "seq IN (SELECT value FROM carray(?))"


def _claim_head(tx: Transaction, claimer: int, queue: QueueRecord, most: int) -> list[Delivery]:
    # The head of a queue is contiguous in `ready`: two statements move it, whatever its length.
    query = f"SELECT {_DELIVERY} FROM ready JOIN message USING (seq) WHERE ready.queue = ? ORDER BY ready.seq LIMIT ?"
    rows = tx.connection.execute(query, (queue.id, most)).fetchall()
    if not rows:
        return []
    last = rows[-1][0]
    tx.connection.execute(
        "INSERT INTO claimed SELECT ?, seq, queue FROM ready WHERE queue = ? AND seq <= ?", (claimer, queue.id, last)
    )
    tx.connection.execute("DELETE FROM ready WHERE queue = ? AND seq <= ?", (queue.id, last))
    return _claimed(tx, queue, rows)


def _claimed(tx: Transaction, queue: QueueRecord, rows: list[tuple[apsw.SQLiteValue, ...]]) -> list[Delivery]:
    tx.left_ready(queue.id, len(rows))
    expiring = [(row[6], row[0]) for row in rows if row[6] is not None]
    if expiring:
        tx.connection.executemany("DELETE FROM expiry WHERE due = ? AND seq = ?", expiring)
    return [
        Delivery(queue.name, integer(seq), bool(again), text(exchange), text(key), blob(properties), blob(body))
        for seq, again, exchange, key, properties, body, _ in rows
    ]


def _give_back(tx: Transaction, which: str, bindings: tuple[apsw.Binding, ...]) -> None:
    run = tx.connection.execute
    for queue, count in run(f"SELECT queue, count(*) FROM claimed WHERE {which} GROUP BY queue", bindings).fetchall():
        tx.became_ready(integer(queue), integer(count))
    run(f"INSERT INTO ready SELECT queue, seq, 1 FROM claimed WHERE {which}", bindings)
    run(
        f"INSERT INTO expiry SELECT expires, seq FROM message WHERE expires NOTNULL AND seq IN "
        f"(SELECT seq FROM claimed WHERE {which})",
        bindings,
    )
    run(f"DELETE FROM claimed WHERE {which}", bindings)


def _unclaim(tx: Transaction, claimer: int, seqs: Sequence[int]) -> None:
    tx.connection.executemany(
        "DELETE FROM claimed WHERE claimer = ? AND seq = ?", [(claimer, seq) for seq in seqs]
    )
