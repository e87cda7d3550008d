"""Exchanges, queues and bindings: declared in the database, and read back as a map for routing.

The map is kept per connection and read anew when the version in the database has changed, which every write
transaction looks at; so a message is always routed by what is declared at its commit.
"""

from __future__ import annotations

from collections.abc import Iterable

import apsw

from busworker.errors import ConfigurationError, TopologyMismatch
from busworker.transports.engine import codec, routing
from busworker.transports.engine.cells import blob, integer, text
from busworker.transports.engine.failures import MissingEntity
from busworker.transports.engine.records import Arguments, QueueRecord, queue_record

_CACHED_ROUTES = 10_000


class Topology:
    """What was declared at one version, with the routes found so far. Routing keys go to queues; see `route`."""

    def __init__(self, version: int, connection: apsw.Connection) -> None:
        self.version = version
        self.queues = {record.name: record for record in _read_queues(connection)}
        self.queues_by_id = {record.id: record for record in self.queues.values()}
        self.limited = [record for record in self.queues.values() if record.max_length is not None]
        self._types: dict[str, str] = {}
        self._alternates: dict[str, str] = {}
        for name, kind, arguments in connection.execute("SELECT name, type, arguments FROM exchange"):
            self._types[text(name)] = text(kind)
            alternate = codec.decode(blob(arguments)).get("alternate-exchange")
            if isinstance(alternate, str):
                self._alternates[text(name)] = alternate
        self._bindings = _read_bindings(connection, self.queues_by_id)
        self._routes: dict[tuple[str, str], tuple[QueueRecord, ...]] = {}

    def route(self, exchange: str, routing_key: str) -> tuple[QueueRecord, ...]:
        """The queues that get a message, each once; none if it is unroutable.

        Raises:
            MissingEntity: there is no such exchange.
        """
        found = self._routes.get((exchange, routing_key))
        if found is None:
            if exchange and exchange not in self._types:
                raise MissingEntity(f"there is no exchange {exchange!r}: declare it before publishing to it")
            if len(self._routes) >= _CACHED_ROUTES:
                self._routes.clear()
            found = self._routes[exchange, routing_key] = tuple(self._find(exchange, routing_key))
        return found

    def dead_letter_route(self, exchange: str, routing_key: str) -> tuple[QueueRecord, ...]:
        """As `route`; an exchange that doesn't exist takes nothing (RabbitMQ, "Dead Letter Exchanges")."""
        return self.route(exchange, routing_key) if not exchange or exchange in self._types else ()

    def queue(self, name: str) -> QueueRecord:
        """The queue of that name.

        Raises:
            MissingEntity: there is none.
        """
        try:
            return self.queues[name]
        except KeyError:
            raise MissingEntity(f"there is no queue {name!r}: declare it first") from None

    def exchange_type(self, name: str) -> str:
        """The type of the exchange of that name.

        Raises:
            MissingEntity: there is none.
        """
        try:
            return self._types[name] if name else "direct"
        except KeyError:
            raise MissingEntity(f"there is no exchange {name!r}: declare it first") from None

    def _find(self, exchange: str, routing_key: str) -> Iterable[QueueRecord]:
        # An alternate exchange gets what its exchange can't route, and may have one of its own (RabbitMQ,
        # "Alternate Exchanges"); a circle of them ends where it began.
        seen: set[str] = set()
        found: dict[int, QueueRecord] = {}
        while exchange not in seen and (not exchange or exchange in self._types):
            seen.add(exchange)
            found |= {queue.id: queue for queue in self._bound(exchange, routing_key)}
            if exchange not in self._alternates or not all(queue.onlooker for queue in found.values()):
                break
            exchange = self._alternates[exchange]
        return found.values()

    def _bound(self, exchange: str, routing_key: str) -> Iterable[QueueRecord]:
        if not exchange:
            return [self.queues[routing_key]] if routing_key in self.queues else []
        kind = self._types[exchange]
        bindings = self._bindings.get(exchange, ())
        return {queue.id: queue for key, queue in bindings if routing.takes(kind, key, routing_key)}.values()


def declare_exchange(connection: apsw.Connection, name: str, kind: str, arguments: Arguments) -> None:
    """Makes an exchange, or finds it as it is to be.

    Raises:
        ConfigurationError: there is no such type, or it is the default exchange.
        TopologyMismatch: it exists with another type or other arguments.
    """
    if kind not in routing.TYPES or not name:
        raise ConfigurationError(f"exchange {name!r} of type {kind!r}: the store has {', '.join(routing.TYPES)}")
    rows = connection.execute("SELECT type, arguments FROM exchange WHERE name = ?", (name,)).fetchall()
    if rows:
        _check("exchange", name, {"type": rows[0][0], **codec.decode(blob(rows[0][1]))}, {"type": kind, **arguments})
        return
    connection.execute("INSERT INTO exchange VALUES (?, ?, ?)", (name, kind, codec.encode(arguments)))
    _changed(connection)


def delete_exchange(connection: apsw.Connection, name: str) -> None:
    """Removes an exchange and its bindings; fine if there is none."""
    connection.execute("DELETE FROM exchange WHERE name = ?", (name,))
    connection.execute("DELETE FROM binding WHERE exchange = ?", (name,))
    _changed(connection)


def has_bindings(connection: apsw.Connection, exchange: str) -> bool:
    """Whether anything is bound to an exchange."""
    return bool(connection.execute("SELECT 1 FROM binding WHERE exchange = ? LIMIT 1", (exchange,)).fetchall())


def declare_queue(connection: apsw.Connection, name: str, arguments: Arguments, *, auto_delete: bool) -> None:
    """Makes a queue, or finds it as it is to be.

    Raises:
        ConfigurationError: an argument is wrong.
        TopologyMismatch: it exists with other arguments.
    """
    queue_record(0, name, auto_delete, dict(arguments))
    rows = connection.execute("SELECT arguments FROM queue WHERE name = ?", (name,)).fetchall()
    if rows:
        _check("queue", name, codec.decode(blob(rows[0][0])), dict(arguments))
        return
    connection.execute(
        "INSERT INTO queue(name, auto_delete, arguments) VALUES (?, ?, ?)", (name, auto_delete, codec.encode(arguments))
    )
    connection.execute("INSERT INTO depth VALUES (?, 0, 0)", (connection.last_insert_rowid(),))
    _changed(connection)


def delete_queue(connection: apsw.Connection, queue: QueueRecord) -> None:
    """Removes a queue with its bindings, its listeners and all its messages, claimed ones included."""
    held = "SELECT seq FROM ready WHERE queue = ?1 UNION ALL SELECT seq FROM claimed WHERE queue = ?1"
    for statement in (
        f"DELETE FROM expiry WHERE (due, seq) IN (SELECT expires, seq FROM message WHERE seq IN ({held}))",
        f"DELETE FROM message WHERE seq IN ({held})",
        "DELETE FROM ready WHERE queue = ?",
        "DELETE FROM claimed WHERE queue = ?",
        "DELETE FROM binding WHERE queue = ?",
        "DELETE FROM listener WHERE queue = ?",
        "DELETE FROM depth WHERE queue = ?",
        "DELETE FROM queue WHERE id = ?",
    ):
        connection.execute(statement, (queue.id,))
    _changed(connection)


def bind(connection: apsw.Connection, exchange: str, routing_key: str, queue: QueueRecord) -> None:
    """Binds a queue to an exchange. Idempotent."""
    connection.execute("INSERT OR IGNORE INTO binding VALUES (?, ?, ?)", (exchange, routing_key, queue.id))
    if connection.changes():
        _changed(connection)


def unbind(connection: apsw.Connection, exchange: str, routing_key: str, queue: QueueRecord) -> None:
    """Takes a binding away; fine if there is none."""
    connection.execute(
        "DELETE FROM binding WHERE exchange = ? AND routing_key = ? AND queue = ?", (exchange, routing_key, queue.id)
    )
    _changed(connection)


def _changed(connection: apsw.Connection) -> None:
    connection.execute("UPDATE store SET topology = topology + 1")


def _check(kind: str, name: str, found: dict[str, object], wanted: dict[str, object]) -> None:
    # What AMQP calls PRECONDITION_FAILED: inequivalent arguments.
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            raise TopologyMismatch(
                f"{kind} {name!r} exists with {key}={found.get(key)!r}, not {wanted.get(key)!r}: "
                f"declare it as it is, or delete it once it isn't needed"
            )


def _read_queues(connection: apsw.Connection) -> Iterable[QueueRecord]:
    for number, name, auto_delete, arguments in connection.execute(
        "SELECT id, name, auto_delete, arguments FROM queue"
    ):
        yield queue_record(integer(number), text(name), bool(auto_delete), codec.decode(blob(arguments)))


def _read_bindings(
    connection: apsw.Connection, queues: dict[int, QueueRecord]
) -> dict[str, list[tuple[str, QueueRecord]]]:
    found: dict[str, list[tuple[str, QueueRecord]]] = {}
    for exchange, key, queue in connection.execute("SELECT exchange, routing_key, queue FROM binding"):
        found.setdefault(text(exchange), []).append((text(key), queues[integer(queue)]))
    return found
