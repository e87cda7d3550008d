"""Claims: messages that somebody holds, and what becomes of them. All within a `Transaction`."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import apsw

from busworker.transports.engine.cells import integer
from busworker.transports.engine.deadletter import MESSAGE, dead_letters
from busworker.transports.engine.records import DELIVERY, Delivery, QueueRecord, deliveries
from busworker.transports.engine.transaction import Transaction, numbers

_HELD = "claimer = ?1 AND seq IN (SELECT value FROM carray(?2))"


def claim_fairly(tx: Transaction, claimer: int, wanted: Sequence[tuple[QueueRecord, int]], room: int) -> list[Delivery]:
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
    rank = "" if queue.max_priority else "AND rank = 0"
    query = f"SELECT {DELIVERY} FROM ready JOIN message USING (seq) WHERE ready.queue = ? {rank} AND ready.seq = ?"
    rows = tx.connection.execute(query, (queue.name, queue.id, seq)).fetchall()
    if not rows:
        return None
    claimed = deliveries(rows)
    _move(tx, claimer, queue, claimed)
    return claimed[0]


def acknowledge(tx: Transaction, claimer: int, seqs: Sequence[int]) -> None:
    """Deletes claimed messages. What isn't claimed by `claimer` (any more) is left alone."""
    bindings = (claimer, numbers(seqs))
    tx.connection.execute(f"DELETE FROM message WHERE seq IN (SELECT seq FROM claimed WHERE {_HELD})", bindings)
    tx.connection.execute(f"DELETE FROM claimed WHERE {_HELD}", bindings)


def reject(tx: Transaction, claimer: int, seqs: Sequence[int]) -> None:
    """Takes claimed messages out of their queues for good, to the dead-letter exchange if there is one."""
    query = f"SELECT {MESSAGE} FROM claimed JOIN message USING (seq) WHERE {_HELD}"
    letters = dead_letters(tx.connection.execute(query, (claimer, numbers(seqs))).fetchall())
    acknowledge(tx, claimer, seqs)
    tx.dead_letter(letters, "rejected")


def give_back(tx: Transaction, claimer: int, seqs: Sequence[int]) -> None:
    """Makes claimed messages ready again, in their old places, marked as redelivered."""
    _give_back(tx, _HELD, (claimer, numbers(seqs)))


def give_back_all(tx: Transaction, path: str) -> None:
    """Makes everything ready again that the claimer of this path holds, and forgets the claimer."""
    _give_back(tx, "claimer = (SELECT id FROM claimer WHERE path = ?1)", (path,))
    tx.connection.execute("DELETE FROM claimer WHERE path = ?", (path,))


def _claim_head(tx: Transaction, claimer: int, queue: QueueRecord, most: int) -> list[Delivery]:
    query = (
        f"SELECT {DELIVERY} FROM ready JOIN message USING (seq) WHERE ready.queue = ? ORDER BY rank, ready.seq LIMIT ?"
    )
    claimed = deliveries(tx.connection.execute(query, (queue.name, queue.id, most)).fetchall())
    if claimed:
        _move(tx, claimer, queue, claimed)
    return claimed


def _move(tx: Transaction, claimer: int, queue: QueueRecord, claimed: Sequence[Delivery]) -> None:
    # From `ready` to `claimed`: they are neighbours in the queue, so that two statements move any number.
    run = tx.connection.execute
    where = "FROM ready WHERE queue = ? AND (rank, seq) >= (?, ?) AND (rank, seq) <= (?, ?)"
    first, last = claimed[0], claimed[-1]
    neighbours = (queue.id, first.rank, first.seq, last.rank, last.seq)
    run(f"INSERT INTO claimed SELECT ?, seq, queue, rank {where}", (claimer, *neighbours))
    run(f"DELETE {where}", neighbours)
    tx.left_ready(queue.id, len(claimed))
    tx.unschedule([(message.expires, message.seq) for message in claimed if message.expires is not None])


def _give_back(tx: Transaction, which: str, bindings: tuple[apsw.Binding, ...]) -> None:
    run = tx.connection.execute
    for queue, count in run(f"SELECT queue, count(*) FROM claimed WHERE {which} GROUP BY queue", bindings).fetchall():
        tx.became_ready(integer(queue), integer(count))
    timed = f"claimed JOIN message USING (seq) WHERE {which} AND expires NOTNULL"
    run(f"INSERT INTO ready SELECT queue, rank, seq, 1 FROM claimed WHERE {which}", bindings)
    run(f"INSERT INTO expiry SELECT expires, seq, rank FROM {timed}", bindings)
    run(f"DELETE FROM claimed WHERE {which}", bindings)
