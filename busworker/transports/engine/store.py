"""The store as its users see it: one `Store` is one connection of one process."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw

from busworker.transports.engine import claims, expiry, folder, listing, topology, upkeep, users, wakeup
from busworker.transports.engine.cells import integer
from busworker.transports.engine.claimfile import ClaimFile, name_of
from busworker.transports.engine.database import Database
from busworker.transports.engine.failures import Unroutable, translated
from busworker.transports.engine.inherited import close
from busworker.transports.engine.location import Location
from busworker.transports.engine.records import Arguments, Batch, Delivery
from busworker.transports.engine.topology import Topology
from busworker.transports.engine.transaction import LOOK_EVERY_MS, Transaction, now_ms

UPKEEP_EVERY = 5.0
"""Seconds between two looks for dead processes while waiting."""


class Store:
    """A connection to a store, which is made if it doesn't exist.

    Args:
        location: where it lies.
        claim_file: the file on whose flock the claims of this connection depend; somebody else holds it. What a dead
            predecessor with the same file had claimed becomes ready again at once. None: a file of our own.

    Guarantees: every method that changes something is one transaction; if it raises, nothing was done. After a fork
    the child has its own connection, claims and wake-ups; closing it there leaves the parent's alone. For one thread
    at a time.

    Raises:
        BrokerUnavailable: the store can't be made, opened or written now.
        ConfigurationError: it lies on a network file system.
    """

    def __init__(self, location: Location, claim_file: str | None = None) -> None:
        self.folder = location.folder.absolute()
        self._location = location
        self._claim_name = None if claim_file is None else name_of(claim_file, self.folder)
        self._database = Database(location)
        self._enter_process()
        if self._claim_name is not None:
            with self._transaction(durable=False) as tx:
                claims.give_back_all(tx, self._claim_name)
        self._clear_up()

    # Topology

    def declare_exchange(self, name: str, kind: str, arguments: Arguments) -> None:
        """Declares an exchange; see `topology.declare_exchange`."""
        with self._write() as connection:
            topology.declare_exchange(connection, name, kind, arguments)

    def delete_exchange(self, name: str) -> None:
        """Removes an exchange with its bindings."""
        with self._write() as connection:
            topology.delete_exchange(connection, name)

    def exchange_type(self, name: str) -> str:
        """The type of an exchange; raises MissingEntity."""
        return self._topology().exchange_type(name)

    def declare_queue(self, name: str, arguments: Arguments, *, auto_delete: bool = False) -> str:
        """Declares a queue; an empty name asks for a new one. Returns the name. See `topology.declare_queue`."""
        name = name or f"amq.gen-{secrets.token_urlsafe(16)}"
        with self._write() as connection:
            topology.declare_queue(connection, name, arguments, auto_delete=auto_delete)
        return name

    def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int | None:
        """Removes a queue with all its messages.

        Returns:
            How many were ready; None if nothing was removed, because of a condition.
        """
        queue = self._topology().queues.get(name)
        if queue is None:
            return 0
        ready, claimed = listing.counts(self._database, queue)
        if (if_empty and ready + claimed) or (if_unused and listing.consumers(self._database, queue)):
            return None
        with self._write() as connection:
            topology.delete_queue(connection, queue)
        return ready

    def purge_queue(self, name: str) -> int:
        """Deletes the ready messages of a queue and returns their number."""
        purged = 0
        with self._transaction(durable=True) as tx:
            queue = tx.topology.queue(name)
            while letters := tx.ready_head(queue, 1000):
                tx.remove_ready(letters)
                purged += len(letters)
        return purged

    def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        """Binds a queue to an exchange. Idempotent. Raises MissingEntity."""
        with self._write() as connection:
            known = self._refreshed(connection)
            known.exchange_type(exchange)
            topology.bind(connection, exchange, routing_key, known.queue(queue))

    def unbind(self, queue: str, exchange: str, routing_key: str) -> None:
        """Takes a binding away; fine if there is none."""
        with self._write() as connection:
            topology.unbind(connection, exchange, routing_key, self._refreshed(connection).queue(queue))

    def queue_names(self) -> list[str]:
        """The names of all queues, sorted."""
        return sorted(self._topology().queues)

    def routes(self, exchange: str, routing_key: str) -> list[str]:
        """The queues that a message would reach. Raises MissingEntity."""
        return [queue.name for queue in self._topology().route(exchange, routing_key)]

    # Messages

    def apply(self, batch: Batch) -> None:
        """Publishes and settles, in one transaction.

        Guarantees: synced to the disk when it returns (with durability `full`), unless it only gives back. Listeners
        of the queues that got messages have been woken.

        Raises:
            Unroutable: a mandatory message reaches no queue.
            MissingEntity: an exchange doesn't exist.
            BrokerUnavailable: the store can't be written now.
        """
        durable = bool(batch.publishes or batch.acknowledged or batch.rejected)
        with self._transaction(durable=durable) as tx:
            if batch.acknowledged:
                claims.acknowledge(tx, self._claimer, batch.acknowledged)
            if batch.requeued:
                claims.give_back(tx, self._claimer, batch.requeued)
            if batch.rejected:
                claims.reject(tx, self._claimer, batch.rejected)
            for index, message in enumerate(batch.publishes):
                if not tx.publish(message) and message.mandatory:
                    raise Unroutable(index, message.exchange, message.routing_key)

    def claim(self, wanted: Sequence[tuple[str, int]], room: int) -> list[Delivery]:
        """Claims ready messages; moves those first whose time has come. See `claims.claim_fairly`."""
        self._move_due()
        ready = self._ready_among([name for name, _ in wanted])
        if not ready:
            return []
        claimer = self._ensure_claimer()
        with self._transaction(durable=False) as tx:
            queues = [(tx.topology.queues[name], most) for name, most in wanted if name in tx.topology.queues]
            return claims.claim_fairly(tx, claimer, queues, room)

    def pick(self, queue: str, seq: int) -> Delivery | None:
        """Claims one message by its name; None if it isn't ready in that queue (any more)."""
        claimer = self._ensure_claimer()
        with self._transaction(durable=False) as tx:
            return claims.claim_one(tx, claimer, tx.topology.queue(queue), seq)

    def counts(self, queue: str) -> tuple[int, int]:
        """The number of ready and of claimed messages. Raises MissingEntity."""
        return listing.counts(self._database, self._topology().queue(queue))

    def dropped(self, queue: str) -> int:
        """How many messages a queue's length limit has dropped. Raises MissingEntity."""
        return listing.dropped(self._database, self._topology().queue(queue))

    def consumers(self, queue: str) -> int:
        """How many connections consume from a queue. Raises MissingEntity."""
        return listing.consumers(self._database, self._topology().queue(queue))

    def count_routing_key(self, queue: str, routing_key: str) -> int:
        """The number of messages with a routing key; 0 if there is no such queue."""
        record = self._topology().queues.get(queue)
        return 0 if record is None else listing.count_routing_key(self._database, record, routing_key)

    def browse(self, queue: str, cursor: int | None, limit: int, *, newest_first: bool) -> list[Delivery]:
        """A page of a queue's ready messages, none if there is no such queue; see `listing.page`."""
        record = self._topology().queues.get(queue)
        return [] if record is None else listing.page(self._database, record, cursor, limit, newest_first=newest_first)

    # Claims of others

    def abandoned(self, queues: Iterable[str]) -> list[str]:
        """Claim files outside the store's folder that nobody holds although messages of these queues are claimed."""
        self._enter_process()
        return upkeep.abandoned(self._database, self.folder, queues)

    def release(self, path: str) -> None:
        """Makes ready again what was claimed by a claim file, in the old order, marked as redelivered."""
        with self._transaction(durable=False) as tx:
            upkeep.release(tx, self.folder, name_of(path, self.folder))

    # Waiting

    def listen(self, queue: str) -> None:
        """Asks to be woken when a queue gets messages. Raises MissingEntity."""
        self._enter_process()
        with translated(self.folder):
            fifo = self._fifo = self._fifo or wakeup.Fifo(self.folder)
        with self._transaction(durable=False) as tx:
            row = (tx.topology.queue(queue).id, fifo.name)
            tx.connection.execute("INSERT OR IGNORE INTO listener VALUES (?, ?)", row)

    def unlisten(self, queue: str) -> None:
        """Ends that; an auto-delete queue goes with its last listener."""
        with self._transaction(durable=False) as tx:
            record = tx.topology.queues.get(queue)
            if record is not None and self._fifo is not None:
                tx.connection.execute("DELETE FROM listener WHERE queue = ? AND fifo = ?", (record.id, self._fifo.name))
                upkeep.delete_if_unused(tx, record.id)

    def fileno(self) -> int:
        """A descriptor that is readable after a wake-up."""
        self._enter_process()
        with translated(self.folder):
            self._fifo = self._fifo or wakeup.Fifo(self.folder)
        return self._fifo.descriptor

    def wait(self, seconds: float) -> bool:
        """Waits for a wake-up; clears up after dead processes now and then. Says whether there was one."""
        self.fileno()
        woken = self._fifo is not None and self._fifo.wait(seconds)
        if not woken and time.monotonic() > self._next_upkeep:
            self._clear_up()
        return woken

    def next_due(self) -> float:
        """Seconds, at most 1, until it is worth looking although nothing woke us."""
        wait = LOOK_EVERY_MS if self._due is None else min(LOOK_EVERY_MS, self._due - now_ms())
        return max(0, wait) / 1000

    def close(self) -> None:
        """Gives back what is claimed and leaves. The store can't be used afterwards."""
        if self._pid != os.getpid():
            return
        try:
            self._say_goodbye()
        finally:
            for resource in (self._fifo, self._claim_file):
                if resource is not None:
                    resource.close()
            self._fifo = self._claim_file = None
            self._database.close()
            if self._users is not None:
                close(self._users)
                self._users = None

    # Within

    def _enter_process(self) -> None:
        """Takes what a connection has in one process; a forked child starts with nothing."""
        if getattr(self, "_pid", 0) == os.getpid():
            return
        folder.prepare(self.folder, private=self._location.memory)
        self._pid = os.getpid()
        with translated(self.folder):
            self._users = users.join(self.folder) if self._location.memory else None
        self._known: Topology | None = None
        self._fifo: wakeup.Fifo | None = None
        self._claim_file: ClaimFile | None = None
        self._claimer = 0
        self._due: int | None = None
        self._next_upkeep = 0.0

    @contextmanager
    def _write(self) -> Iterator[apsw.Connection]:
        self._enter_process()
        with self._database.write(durable=True) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[Transaction]:
        self._enter_process()
        with self._database.write(durable=durable) as connection:
            row = connection.execute("SELECT next_seq FROM store").fetchall()[0]
            tx = Transaction(connection, self._refreshed(connection), integer(row[0]))
            yield tx
            listeners = tx.finish()
        wakeup.wake(self.folder, listeners)

    def _topology(self) -> Topology:
        self._enter_process()
        with self._database.snapshot() as connection:
            return self._refreshed(connection)

    def _refreshed(self, connection: apsw.Connection) -> Topology:
        version = integer(connection.execute("SELECT topology FROM store").fetchall()[0][0])
        if self._known is None or self._known.version != version:
            self._known = Topology(version, connection)
        return self._known

    def _move_due(self) -> None:
        self._enter_process()
        more = True
        while more:
            earliest = self._database.read(expiry.EARLIEST)[0][0]
            self._due = None if earliest is None else integer(earliest)
            more = self._due is not None and self._due <= now_ms()
            if more:
                with self._transaction(durable=False) as tx:
                    expiry.move_due(tx)

    def _ready_among(self, names: Sequence[str]) -> bool:
        query = (
            "SELECT 1 FROM queue JOIN depth ON depth.queue = queue.id "
            "WHERE ready > 0 AND name IN (SELECT value FROM carray(?)) LIMIT 1"
        )
        return bool(names) and bool(self._database.read(query, (apsw.carray(tuple(names)),)))

    def _ensure_claimer(self) -> int:
        self._enter_process()
        if not self._claimer:
            name = self._claim_name
            if name is None:
                with translated(self.folder):
                    self._claim_file = self._claim_file or ClaimFile(self.folder)
                name = self._claim_file.name
            with self._write() as connection:
                connection.execute("INSERT OR IGNORE INTO claimer(path) VALUES (?)", (name,))
                rows = connection.execute("SELECT id FROM claimer WHERE path = ?", (name,)).fetchall()
                claimer = integer(rows[0][0])
            self._claimer = claimer
        return self._claimer

    def _clear_up(self) -> None:
        self._next_upkeep = time.monotonic() + UPKEEP_EVERY
        for name in upkeep.abandoned(self._database, self.folder, None):
            with self._transaction(durable=False) as tx:
                upkeep.release(tx, self.folder, name)
        for name in upkeep.deaf(self._database, self.folder):
            with self._transaction(durable=False) as tx:
                upkeep.forget_listener(tx, self.folder, name)

    def _say_goodbye(self) -> None:
        name = self._claim_file.name if self._claim_file else self._claim_name
        if self._claimer and name is not None:
            with self._transaction(durable=False) as tx:
                claims.give_back_all(tx, name)
        if self._fifo is not None:
            with self._transaction(durable=False) as tx:
                upkeep.forget_listener(tx, self.folder, self._fifo.name)


def exists(location: Location) -> bool:
    """Whether there is a store; makes nothing."""
    return Path(location.database).exists()
