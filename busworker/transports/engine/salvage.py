"""Copying what can be read of a damaged store into a new one.

A damaged page hides a few messages of a table, or a whole branch of it. Messages are read in ranges of their `seq`;
a range that can't be read is halved, until what is lost is known to the message. The other tables are read from both
ends up to the damage; what they lack, `integrity.mend` infers.
"""

from __future__ import annotations

from collections.abc import Iterator

import apsw

from busworker.transports.engine.cells import integer

_Row = tuple["apsw.SQLiteValue", ...]

_RANGE = 1000
_SMALL = ("store", "exchange", "queue", "binding", "claimer", "ready", "claimed", "seen")
_MESSAGE = (int, int, str, str, int | None, bytes, bytes)
_UNREADABLE = (apsw.CorruptError, apsw.NotADBError, apsw.IOError)


def copy(source: apsw.Connection, target: apsw.Connection) -> None:
    """Copies what can be read, within a write transaction of an empty store.

    Args:
        source: the damaged store.
        target: a store of the same schema, without content.
    """
    target.execute("DELETE FROM store")
    for table in _SMALL:
        for row in _from_both_ends(source, table):
            target.execute(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    for row in _messages(source, _highest(target)):
        if all(isinstance(value, kind) for value, kind in zip(row, _MESSAGE, strict=True)):
            target.execute("INSERT OR IGNORE INTO message VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _from_both_ends(source: apsw.Connection, table: str) -> Iterator[_Row]:
    try:
        yield from source.execute(f"SELECT * FROM {table}")
        return
    except _UNREADABLE:
        pass
    try:
        yield from source.execute(f"SELECT * FROM {table} ORDER BY {_key(source, table)} DESC")
    except _UNREADABLE:
        return


def _key(source: apsw.Connection, table: str) -> str:
    columns = source.execute(f"SELECT name FROM pragma_table_info('{table}') WHERE pk > 0 ORDER BY pk").fetchall()
    return ", ".join(f"{name} DESC" for (name,) in columns)[: -len(" DESC")]


def _highest(target: apsw.Connection) -> int:
    query = "SELECT max(ifnull((SELECT max(next_seq) FROM store), 0), ifnull((SELECT max(seq) FROM {}), 0)) + 1"
    return max(integer(target.execute(query.format(table)).fetchall()[0][0]) for table in ("ready", "claimed"))


def _messages(source: apsw.Connection, highest: int) -> Iterator[_Row]:
    for first in range(0, highest, _RANGE):
        yield from _between(source, first, first + _RANGE)


def _between(source: apsw.Connection, first: int, beyond: int) -> list[_Row]:
    single = beyond - first == 1
    # A range would look at the next row too, which may be on the damaged page.
    where = "seq = ?1" if single else "seq >= ?1 AND seq < ?2"
    try:
        return source.execute(
            f"SELECT * FROM message WHERE {where}", (first,) if single else (first, beyond)
        ).fetchall()
    except _UNREADABLE:
        if single:
            return []
        middle = (first + beyond) // 2
        return _between(source, first, middle) + _between(source, middle, beyond)
