"""Messages whose time has come: found by an index on the due time, so that none waits behind another."""

from __future__ import annotations

from busworker.transports.engine.deadletter import MESSAGE, dead_letters
from busworker.transports.engine.transaction import Transaction

BATCH = 200
"""How many are moved in one transaction, so that others get their turn."""

EARLIEST = "SELECT min(due) FROM expiry"


def move_due(tx: Transaction) -> None:
    """Moves a batch of messages that are due out of their queues, to the dead-letter exchanges."""
    query = f"SELECT {MESSAGE} FROM expiry JOIN message USING (seq) WHERE due <= ? ORDER BY due LIMIT ?"
    letters = dead_letters(tx.connection.execute(query, (tx.now, BATCH)).fetchall())
    tx.remove_ready(letters)
    tx.dead_letter(letters, "expired")
