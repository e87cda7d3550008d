"""Messages whose time has come: found by an index on the due time, so that none waits behind another."""

from __future__ import annotations

from busworker.transports.engine.transaction import MESSAGE, Transaction, dead_letters

BATCH = 200
"""How many are moved in one transaction, so that others get their turn."""

EARLIEST = "SELECT min(due) FROM expiry"


def move_due(tx: Transaction) -> bool:
    """Moves a batch of messages that are due out of their queues, to the dead-letter exchanges.

    Returns:
        Whether more may be due.
    """
    query = f"SELECT {MESSAGE} FROM expiry JOIN message USING (seq) WHERE due <= ? ORDER BY due LIMIT ?"
    letters = dead_letters(tx.connection.execute(query, (tx.now, BATCH)))
    tx.remove_ready(letters)
    tx.dead_letter(letters, "expired")
    return len(letters) == BATCH
