"""The store as its users see it: one `Store` is one connection of one process."""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager

import apsw
import msgspec

from busworker.errors import BrokerUnavailable
from busworker.transports.engine import claims, expiry, listing, topology, upkeep, wakeup
from busworker.transports.engine.cells import integer
from busworker.transports.engine.claimfile import name_of
from busworker.transports.engine.failures import Unroutable
from busworker.transports.engine.location import Location
from busworker.transports.engine.presence import Presence
from busworker.transports.engine.records import Arguments, Batch, Delivery, Found
from busworker.transports.engine.topology import Topology
from busworker.transports.engine.transaction import LOOK_EVERY_MS, Transaction, now_ms

UPKEEP_EVERY = 5.0
"""Seconds between two looks for dead processes while waiting."""

IDLE = 0.5
"""Seconds without a transaction of ours after which space may be given back."""

_LOOK = f"""
SELECT ({expiry.EARLIEST}), EXISTS (
    SELECT 1 FROM json_each(?) JOIN queue ON name = value JOIN depth ON depth.queue = queue.id WHERE ready > 0
)
"""

SHRINK_PAUSE = 0.02
"""Seconds between two steps of that, for others."""


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
        self._location = location
        self._claim_name = None if claim_file is None else name_of(claim_file, location.folder)
        self._presence = Presence(location)
        if self._claim_name is not None:
            with self._transaction(durable=False) as tx:
                claims.give_back_all(tx, self._claim_name)
        self._clear_up()
        upkeep.remove_strays(self._here.database, location.folder)

    # Topology

    def declare_exchange(self, name: str, kind: str, arguments: Arguments) -> None:
        """Declares an exchange; see `topology.declare_exchange`."""
        with self._write() as connection:
            topology.declare_exchange(connection, name, kind, arguments)

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> bool:
        """Removes an exchange with its bindings; says False if it was left because it has some."""
        with self._write() as connection:
            if if_unused and topology.has_bindings(connection, name):
                return False
            topology.delete_exchange(connection, name)
        return True

    def exchange_type(self, name: str) -> str:
        """The type of an exchange; raises MissingEntity."""
        return self._topology().exchange_type(name)

    def declare_queue(
        self, name: str, arguments: Arguments, *, auto_delete: bool = False, listening: bool = False
    ) -> str:
        """Declares a queue; an empty name asks for a new one. Returns the name. See `topology.declare_queue`.

        `listening`: we listen to it from the start, so that an auto-delete queue goes with us, whenever that is.
        """
        name = name or f"amq.gen-{secrets.token_urlsafe(16)}"
        fifo = self._here.fifo() if listening else None
        with self._write() as connection:
            topology.declare_queue(connection, name, arguments, auto_delete=auto_delete)
            if fifo is not None:
                row = "INSERT OR IGNORE INTO listener SELECT id, ? FROM queue WHERE name = ?"
                connection.execute(row, (fifo.name, name))
        return name

    def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int | None:
        """Removes a queue with all its messages.

        Returns:
            How many were ready; None if nothing was removed, because of a condition.
        """
        with self._write() as connection:
            queue = self._refreshed(connection).queues.get(name)
            if queue is None:
                return 0
            # By the connection that writes: nobody comes in between.
            ready, claimed = listing.counts(self._here.database, queue)
            if (if_empty and ready + claimed) or (if_unused and listing.consumers(self._here.database, queue)):
                return None
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

    def apply(self, batch: Batch) -> list[int]:
        """Publishes and settles, in one transaction.

        Returns:
            The places of the messages that were to be published once and were before: they are left out.

        Guarantees: synced to the disk when it returns (with durability `full`), unless it only gives back. Listeners
        of the queues that got messages have been woken.

        Raises:
            Unroutable: a mandatory message reaches no queue.
            MissingEntity: an exchange doesn't exist.
            BrokerUnavailable: the store can't be written now.
        """
        settles = bool(batch.acknowledged or batch.rejected)
        adding = bool(batch.publishes) and not settles
        if adding:
            self._require_space(sum(len(message.body) + len(message.properties) for message in batch.publishes))
        claimer = self._here.claimer or 0
        with self._transaction(durable=settles or adding, adding=adding) as tx:
            if batch.acknowledged:
                claims.acknowledge(tx, claimer, batch.acknowledged)
            if batch.requeued:
                claims.give_back(tx, claimer, batch.requeued)
            if batch.rejected:
                claims.reject(tx, claimer, batch.rejected)
            repeated = {
                index for index, message in enumerate(batch.publishes) if message.once and tx.is_repeated(message)
            }
            for index, message in enumerate(batch.publishes):
                if index not in repeated and not tx.publish(message) and message.mandatory:
                    raise Unroutable(index, message.exchange, message.routing_key)
        return sorted(repeated)

    def claim(self, wanted: Sequence[tuple[str, int]], room: int) -> list[Delivery]:
        """Claims ready messages; moves those first whose time has come. See `claims.claim_fairly`.

        Raises:
            BrokerUnavailable: the store can't be used now, or was removed or replaced: see `replaced`.
        """
        if self.replaced():
            raise BrokerUnavailable(f"store {self._here.database.path} was removed or replaced")
        if not self._any_ready([name for name, _ in wanted]):
            return []
        claimer = self._claimer()
        with self._transaction(durable=False) as tx:
            queues = [(tx.topology.queues[name], most) for name, most in wanted if name in tx.topology.queues]
            return claims.claim_fairly(tx, claimer, queues, room)

    def pick(self, queue: str, seq: int) -> Delivery | None:
        """Claims one message by its name; None if it isn't ready in that queue (any more)."""
        claimer = self._claimer()
        with self._transaction(durable=False) as tx:
            return claims.claim_one(tx, claimer, tx.topology.queue(queue), seq)

    def counts(self, queue: str) -> tuple[int, int]:
        """The number of ready and of claimed messages. Raises MissingEntity."""
        return listing.counts(self._here.database, self._topology().queue(queue))

    def dropped(self, queue: str) -> int:
        """How many messages a queue's length limit has dropped. Raises MissingEntity."""
        return listing.dropped(self._here.database, self._topology().queue(queue))

    def consumers(self, queue: str) -> int:
        """How many connections consume from a queue. Raises MissingEntity."""
        return listing.consumers(self._here.database, self._topology().queue(queue))

    def count_routing_key(self, queue: str, routing_key: str) -> int:
        """The number of messages with a routing key; 0 if there is no such queue."""
        record = self._topology().queues.get(queue)
        return 0 if record is None else listing.count_routing_key(self._here.database, record, routing_key)

    def browse(self, queue: str, cursor: int | None, limit: int, *, newest_first: bool) -> list[Delivery]:
        """A page of a queue's ready messages, none if there is no such queue; see `listing.page`."""
        record = self._topology().queues.get(queue)
        return (
            []
            if record is None
            else listing.page(self._here.database, record, cursor, limit, newest_first=newest_first)
        )

    def find(self, text: str) -> Generator[list[Found]]:
        """Messages whose properties contain a text, ready and claimed, in parts; see `listing.find`."""
        return listing.find(self._here.database, text)

    def published_once(self, once: bytes) -> float | None:
        """When (Unix time) a message was published once, if that is remembered."""
        return listing.published_once(self._here.database, once)

    # Claims of others

    def abandoned(self, queues: Iterable[str]) -> list[str]:
        """Claim files outside the store's folder that nobody holds although messages of these queues are claimed."""
        return upkeep.abandoned(self._here.database, self._location.folder, queues)

    def release(self, path: str) -> None:
        """Makes ready again what was claimed by a claim file, in the old order, marked as redelivered."""
        with self._transaction(durable=False) as tx:
            upkeep.release(tx, self._location.folder, name_of(path, self._location.folder))

    # Waiting

    def listen(self, queue: str) -> None:
        """Asks to be woken when a queue gets messages. Raises MissingEntity."""
        fifo = self._here.fifo()
        with self._transaction(durable=False) as tx:
            row = (tx.topology.queue(queue).id, fifo.name)
            tx.connection.execute("INSERT OR IGNORE INTO listener VALUES (?, ?)", row)

    def unlisten(self, queue: str) -> None:
        """Ends that; an auto-delete queue goes with its last listener."""
        fifo = self._here.fifo()
        with self._transaction(durable=False) as tx:
            record = tx.topology.queues.get(queue)
            if record is not None:
                tx.connection.execute("DELETE FROM listener WHERE queue = ? AND fifo = ?", (record.id, fifo.name))
                upkeep.delete_if_unused(tx, record.id)

    def fileno(self) -> int:
        """A descriptor that is readable after a wake-up."""
        return self._here.fifo().descriptor

    def ring(self) -> None:
        """Makes that descriptor readable, so that whoever waits for it comes back at once."""
        self._here.fifo().ring()

    def wait(self, seconds: float) -> None:
        """Waits for a wake-up; now and then clears up after dead processes, and gives space back when idle."""
        self._here.fifo().wait(seconds)
        now = time.monotonic()
        if now > self._here.next_upkeep:
            self._clear_up(idle=now - self._here.last_write > IDLE)

    def next_due(self) -> float:
        """Seconds, at most 1, until it is worth looking although nothing woke us."""
        due = self._here.due
        if self._here.surplus:
            return SHRINK_PAUSE
        wait = LOOK_EVERY_MS if due is None else min(LOOK_EVERY_MS, due - now_ms())
        return max(0, wait) / 1000

    def replaced(self) -> bool:
        """Whether another store, or none, is where this one was: its queues and claims are gone."""
        return self._here.database.replaced()

    def close(self) -> None:
        """Gives back what is claimed and leaves; in a forked child it does nothing. Nothing else may follow."""
        if not self._presence.is_ours:
            return
        try:
            self._say_goodbye()
        finally:
            self._presence.close()

    # Within

    @property
    def _here(self) -> Presence:
        if not self._presence.is_ours:
            self._presence = Presence(self._location)
        return self._presence

    @contextmanager
    def _write(self) -> Generator[apsw.Connection]:
        with self._here.database.write(durable=True) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, durable: bool, adding: bool = False) -> Generator[Transaction]:
        here = self._here
        here.last_write = time.monotonic()
        with here.database.write(durable=durable, adding=adding) as connection:
            version, next_seq = connection.execute("SELECT topology, next_seq FROM store").fetchall()[0]
            tx = Transaction(connection, _current(here, integer(version), connection), integer(next_seq))
            yield tx
            listeners = tx.finish()
        wakeup.wake(self._location.folder, listeners)

    def _topology(self) -> Topology:
        with self._here.database.snapshot() as connection:
            return self._refreshed(connection)

    def _refreshed(self, connection: apsw.Connection) -> Topology:
        version = connection.execute("SELECT topology FROM store").fetchall()[0][0]
        return _current(self._here, integer(version), connection)

    def _any_ready(self, queues: Sequence[str]) -> bool:
        """Moves what is due, and says whether one of the queues has messages then."""
        here, names = self._here, msgspec.json.encode(queues).decode()
        while True:
            earliest, ready = here.database.read(_LOOK, (names,))[0]
            here.due = None if earliest is None else integer(earliest)
            if here.due is None or here.due > now_ms():
                return bool(ready)
            with self._transaction(durable=False) as tx:
                expiry.move_due(tx)

    def _claimer(self) -> int:
        here = self._here
        if here.claimer is None:
            name = self._claim_name or here.claim_file()
            with self._write() as connection:
                connection.execute("INSERT OR IGNORE INTO claimer(path) VALUES (?)", (name,))
                rows = connection.execute("SELECT id FROM claimer WHERE path = ?", (name,)).fetchall()
            here.claimer = integer(rows[0][0])
        return here.claimer

    def _clear_up(self, *, idle: bool = True) -> None:
        self._here.next_upkeep = time.monotonic() + UPKEEP_EVERY
        self._here.space.set_aside()
        for name in upkeep.abandoned(self._here.database, self._location.folder, None):
            with self._transaction(durable=False) as tx:
                upkeep.release(tx, self._location.folder, name)
        for name in upkeep.deaf(self._here.database, self._location.folder):
            with self._transaction(durable=False) as tx:
                upkeep.forget_listener(tx, self._location.folder, name)
        self._here.surplus = idle and upkeep.shrink(self._here.database)
        if self._here.surplus:
            self._here.next_upkeep = time.monotonic() + SHRINK_PAUSE

    def _require_space(self, size: int) -> None:
        space = self._here.space
        if not space.has(size):
            while upkeep.shrink(self._here.database, everything=True):
                pass
            space.require(size)

    def _say_goodbye(self) -> None:
        here = self._presence
        if here.claimer is not None:
            name = self._claim_name or here.claim_file()
            with self._transaction(durable=False) as tx:
                claims.give_back_all(tx, name)
        if here.listening:
            with self._transaction(durable=False) as tx:
                upkeep.forget_listener(tx, self._location.folder, here.fifo().name)


def _current(here: Presence, version: int, connection: apsw.Connection) -> Topology:
    if here.topology is None or here.topology.version != version:
        here.topology = Topology(version, connection)
    return here.topology
