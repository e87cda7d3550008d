"""The tables of the store, and the making of an empty one.

A message is written once and never updated: what can be claimed, is claimed, or expires stands in small tables of
their own, so that a claim rewrites no body and costs the same whatever the backlog.
"""

from __future__ import annotations

from pathlib import Path

import apsw

from busworker.errors import BrokerUnavailable

VERSION = 3

_PLACES = """
CREATE TABLE ready(
    queue INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    redelivered INTEGER NOT NULL,
    PRIMARY KEY (queue, rank, seq)
) WITHOUT ROWID;
CREATE TABLE claimed(
    claimer INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    PRIMARY KEY (claimer, seq)
) WITHOUT ROWID;
-- Ready messages that expire, by their due time in milliseconds of the epoch.
CREATE TABLE expiry(
    due INTEGER NOT NULL, seq INTEGER NOT NULL, rank INTEGER NOT NULL, PRIMARY KEY (due, seq)
) WITHOUT ROWID;
"""
"""Where messages stand. A message's rank is its priority, negative: 0 in queues without x-max-priority."""

_SEEN = """
-- What was published once: digests, in the order in which they came, with the time in milliseconds of the epoch.
CREATE TABLE seen(n INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, at INTEGER NOT NULL);
"""

_TABLES = f"""
CREATE TABLE store(id INTEGER PRIMARY KEY CHECK (id = 1), topology INTEGER NOT NULL, next_seq INTEGER NOT NULL);
INSERT INTO store VALUES (1, 1, 1);
CREATE TABLE exchange(name TEXT PRIMARY KEY, type TEXT NOT NULL, arguments BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE queue(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    auto_delete INTEGER NOT NULL,
    arguments BLOB NOT NULL
);
CREATE TABLE binding(
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    queue INTEGER NOT NULL,
    PRIMARY KEY (exchange, routing_key, queue)
) WITHOUT ROWID;
-- Counters, one update a transaction: ready messages, and those dropped by x-max-length.
CREATE TABLE depth(queue INTEGER PRIMARY KEY, ready INTEGER NOT NULL, dropped INTEGER NOT NULL);
CREATE TABLE message(
    seq INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    expires INTEGER,
    properties BLOB NOT NULL,
    body BLOB NOT NULL
);
-- Counting who waits in a queue with a TTL: the retry queues. Other messages don't pay for it.
CREATE INDEX waiting ON message(queue, routing_key) WHERE expires IS NOT NULL;
{_PLACES}
-- Who claims: a file whose flock lives as long as the claimer. Inside the folder by a relative path.
CREATE TABLE claimer(id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE);
-- Who wants to be woken when a queue gets messages: the name of a FIFO.
CREATE TABLE listener(queue INTEGER NOT NULL, fifo TEXT NOT NULL, PRIMARY KEY (queue, fifo)) WITHOUT ROWID;
{_SEEN}
"""


_RANKS = f"""
ALTER TABLE ready RENAME TO old_ready;
ALTER TABLE claimed RENAME TO old_claimed;
ALTER TABLE expiry RENAME TO old_expiry;
{_PLACES}
INSERT INTO ready SELECT queue, 0, seq, redelivered FROM old_ready;
INSERT INTO claimed SELECT claimer, seq, queue, 0 FROM old_claimed;
INSERT INTO expiry SELECT due, seq, 0 FROM old_expiry;
DROP TABLE old_ready;
DROP TABLE old_claimed;
DROP TABLE old_expiry;
"""

_UPGRADES = {1: _RANKS, 2: _SEEN}
"""What brings a store of a version to the next one."""


def ensure(connection: apsw.Connection, path: Path) -> None:
    """Makes the tables in an empty database, or brings those of an older version up to date, in one transaction.

    Call it under the write lock. A process of the older version that still uses the store gets errors from then on
    and loses nothing: stop the services before an upgrade.

    Raises:
        BrokerUnavailable: the database is of a newer version, or not ours.
    """
    version = connection.pragma("user_version")
    if version == VERSION:
        return
    if version in _UPGRADES:
        _run(connection, "".join(_UPGRADES[step] for step in range(version, VERSION)))
        return
    if version != 0 or connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
        raise _foreign(version, path)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    _run(connection, _TABLES)


def require(connection: apsw.Connection, path: Path) -> None:
    """Raises BrokerUnavailable unless a store is of this version; changes nothing."""
    version = connection.pragma("user_version")
    if version in _UPGRADES:
        raise BrokerUnavailable(f"store {path} has the older schema {version}: use it once, which brings it up to date")
    if version != VERSION:
        raise _foreign(version, path)


def _foreign(version: object, path: Path) -> BrokerUnavailable:
    return BrokerUnavailable(
        f"store {path} has schema {version}, this busworker knows {VERSION}: upgrade busworker, or take another folder"
    )


def _run(connection: apsw.Connection, statements: str) -> None:
    connection.execute(f"BEGIN IMMEDIATE; {statements} PRAGMA user_version = {VERSION}; COMMIT")
