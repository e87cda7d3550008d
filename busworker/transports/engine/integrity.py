"""Whether a store is whole: SQLite's own check, and what must hold between its tables; and the mending of the latter.

Each rule counts its violations and says what mends them. Nothing is thrown away but what has no message any more:
a message in no place becomes ready, one of a queue that is gone goes to a queue that is there for it.
"""

from __future__ import annotations

from typing import NamedTuple

import apsw

from busworker.transports.engine import codec
from busworker.transports.engine.cells import integer, text

_MOST_LINES = 20
"""How many findings of SQLite's are told."""


class _Rule(NamedTuple):
    """`violated` selects what breaks it; `mend` is run with `:home`, the queue for messages that have none."""

    finding: str
    violated: str
    mend: tuple[str, ...]


_PLACELESS = "message WHERE seq NOT IN (SELECT seq FROM ready) AND seq NOT IN (SELECT seq FROM claimed)"
_UNHELD = "claimed WHERE claimer NOT IN (SELECT id FROM claimer)"
_ON_TIME = "ready JOIN message USING (seq) WHERE expires NOTNULL AND seq NOT IN (SELECT seq FROM expiry)"
_COUNTED = "(SELECT count(*) FROM ready WHERE ready.queue = queue.id)"
_HOME = "(SELECT id FROM queue WHERE name = :home)"

# In this order: what one rule mends may be what the next one looks at.
_RULES = (
    _Rule(
        "messages belong to no queue",
        "message WHERE queue NOT IN (SELECT id FROM queue)",
        (
            "INSERT OR IGNORE INTO queue(name, auto_delete, arguments) VALUES (:home, 0, :none)",
            *(
                f"UPDATE {table} SET queue = {_HOME} WHERE queue NOT IN (SELECT id FROM queue)"
                for table in ("ready", "claimed", "message")
            ),
        ),
    ),
    *(
        _Rule(
            f"entries of {table} have no message",
            f"{table} WHERE seq NOT IN (SELECT seq FROM message)",
            (f"DELETE FROM {table} WHERE seq NOT IN (SELECT seq FROM message)",),
        )
        for table in ("ready", "claimed")
    ),
    _Rule(
        "messages are both ready and claimed",
        "claimed WHERE seq IN (SELECT seq FROM ready)",
        ("DELETE FROM claimed WHERE seq IN (SELECT seq FROM ready)",),
    ),
    _Rule(
        "messages are claimed by nobody",
        _UNHELD,
        (f"INSERT INTO ready SELECT queue, rank, seq, 1 FROM {_UNHELD}", f"DELETE FROM {_UNHELD}"),
    ),
    _Rule(
        "messages are neither ready nor claimed",
        _PLACELESS,
        (f"INSERT INTO ready SELECT queue, 0, seq, 1 FROM {_PLACELESS}",),
    ),
    _Rule(
        "messages are ready in another queue than their own",
        "ready JOIN message USING (seq) WHERE ready.queue <> message.queue",
        ("UPDATE OR REPLACE ready SET queue = (SELECT queue FROM message WHERE message.seq = ready.seq)",),
    ),
    _Rule(
        "messages that expire have no due time",
        _ON_TIME,
        (f"INSERT INTO expiry SELECT expires, seq, rank FROM {_ON_TIME}",),
    ),
    _Rule(
        "due times have no ready message",
        "expiry WHERE seq NOT IN (SELECT seq FROM ready)",
        ("DELETE FROM expiry WHERE seq NOT IN (SELECT seq FROM ready)",),
    ),
    _Rule(
        "bindings lead to no queue",
        "binding WHERE queue NOT IN (SELECT id FROM queue)",
        ("DELETE FROM binding WHERE queue NOT IN (SELECT id FROM queue)",),
    ),
    _Rule(
        "queues have a wrong count",
        f"queue LEFT JOIN depth ON depth.queue = queue.id WHERE depth.ready IS NOT {_COUNTED}",
        (
            f"INSERT OR REPLACE INTO depth SELECT id, {_COUNTED}, ifnull(dropped, 0) "
            "FROM queue LEFT JOIN depth ON depth.queue = queue.id",
        ),
    ),
    _Rule(
        "counters are behind their messages",
        "(SELECT 1 WHERE (SELECT next_seq FROM store) IS NULL "
        "OR (SELECT next_seq FROM store) <= (SELECT max(seq) FROM message))",
        (
            "INSERT OR IGNORE INTO store VALUES (1, 1, 1)",
            "UPDATE store SET next_seq = max(next_seq, (SELECT ifnull(max(seq), 0) + 1 FROM message))",
        ),
    ),
)


def damage(connection: apsw.Connection) -> list[str]:
    """What SQLite finds wrong with the file, a line each; none if it is sound. Reads all of it."""
    try:
        lines = [text(row[0]) for row in connection.execute(f"PRAGMA integrity_check({_MOST_LINES})")]
    except (apsw.CorruptError, apsw.NotADBError) as error:
        return [str(error)]
    return [line for line in lines if line != "ok"]


def contradictions(connection: apsw.Connection) -> list[str]:
    """What contradicts itself in a sound file, a line each."""
    return [f"{count} {rule.finding}" for rule in _RULES if (count := _violations(connection, rule))]


def mend(connection: apsw.Connection, home: str) -> None:
    """Mends that, within a write transaction.

    Args:
        connection: the store's.
        home: the queue for messages whose own is gone; made if it isn't there.
    """
    for rule in _RULES:
        if _violations(connection, rule):
            for statement in rule.mend:
                connection.execute(statement, {"home": home, "none": codec.encode({})})
    connection.execute("UPDATE store SET topology = topology + 1")


def _violations(connection: apsw.Connection, rule: _Rule) -> int:
    return integer(connection.execute(f"SELECT count(*) FROM {rule.violated}").fetchall()[0][0])
