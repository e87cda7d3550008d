"""One write transaction on messages: it collects what is to be inserted, and writes it in few statements at the end."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import apsw

from busworker.transports.engine.cells import integer, text
from busworker.transports.engine.deadletter import MESSAGE, DeadLetter, Reason, dead_letters, died
from busworker.transports.engine.records import Outgoing, QueueRecord
from busworker.transports.engine.topology import Topology

_NewRow = tuple[int, int, str, str, int | None, bytes, bytes]

LOOK_EVERY_MS = 1000
"""How often whoever consumes looks at the store even if nothing woke it."""

ONCE_FOR_MS = 3_600_000
MOST_ONCE = 1_000_000
"""How long, and of how many, it is remembered that they were published once."""

_ENDLESS = 1 << 62

_INSERTS = [(size, f"INSERT INTO message VALUES {', '.join(['(?, ?, ?, ?, ?, ?, ?)'] * size)}") for size in (64, 8, 1)]


class Transaction:
    """Changes to messages within `connection`'s write transaction.

    Call `finish` last: inserts, counters, length limits, and who is to be woken after the commit. `now` is in
    milliseconds of the epoch.
    """

    def __init__(self, connection: apsw.Connection, topology: Topology, next_seq: int) -> None:
        self.connection = connection
        self.topology = topology
        self.now = now_ms()
        self._first = self._next = next_seq
        self._rows: list[_NewRow] = []
        self._ranked: list[tuple[int, int]] = []
        self._shortest_life = _ENDLESS
        self._depth: Counter[int] = Counter()
        self._filled: set[int] = set()
        self._forgotten = False

    def is_repeated(self, message: Outgoing) -> bool:
        """Whether one that is to be published once was; else that is remembered from now on."""
        if not self._forgotten:
            self._forget_seen()
        insert = "INSERT INTO seen(key, at) VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING n"
        return not self.connection.execute(insert, (message.once, self.now)).fetchall()

    def publish(self, message: Outgoing) -> bool:
        """Routes a message and inserts it into every queue it reaches; says whether it reached one.

        Raises:
            MissingEntity: its exchange doesn't exist.
        """
        queues = self.topology.route(message.exchange, message.routing_key)
        for queue in queues:
            self._insert(queue, message)
        return bool(queues)

    def became_ready(self, queue: int, count: int = 1) -> None:
        """Notes that messages of a queue can be claimed."""
        self._depth[queue] += count
        self._filled.add(queue)

    def left_ready(self, queue: int, count: int = 1) -> None:
        """Notes that messages of a queue can't be claimed any more."""
        self._depth[queue] -= count

    def ready_head(self, queue: QueueRecord, count: int) -> list[DeadLetter]:
        """The oldest ready messages of a queue."""
        ready = "ready JOIN message USING (seq) WHERE ready.queue = ? ORDER BY rank, ready.seq"
        query = f"SELECT {MESSAGE} FROM {ready} LIMIT ?"
        return dead_letters(self.connection.execute(query, (queue.id, count)).fetchall())

    def remove_ready(self, letters: Sequence[DeadLetter]) -> None:
        """Deletes ready messages."""
        run = self.connection.executemany
        places = [(letter.queue, letter.rank, letter.seq) for letter in letters]
        run("DELETE FROM ready WHERE queue = ? AND rank = ? AND seq = ?", places)
        self.unschedule([(letter.expires, letter.seq) for letter in letters if letter.expires is not None])
        run("DELETE FROM message WHERE seq = ?", [(letter.seq,) for letter in letters])
        self._depth.subtract(letter.queue for letter in letters)

    def unschedule(self, expiries: Sequence[tuple[int, int]]) -> None:
        """Notes that messages, named by due time and `seq`, don't expire any more."""
        if expiries:
            self.connection.executemany("DELETE FROM expiry WHERE due = ? AND seq = ?", expiries)

    def dead_letter(self, letters: Iterable[DeadLetter], reason: Reason) -> None:
        """Sends messages, already deleted, to the dead-letter exchange of their queue, if it has one."""
        for letter in letters:
            queue = self.topology.queues_by_id[letter.queue]
            if queue.dead_letter_exchange is not None:
                message, visited = died(letter, queue, reason, self.now)
                for target in self.topology.dead_letter_route(message.exchange, message.routing_key):
                    if target.name not in visited:
                        self._insert(target, message)

    def finish(self) -> set[str]:
        """Writes everything.

        Returns:
            The FIFOs of those who listen to queues that got messages.
        """
        self._write()
        while over := [
            queue for queue in self.topology.limited if queue.id in self._filled and self._excess(queue) > 0
        ]:
            for queue in over:
                self._limit(queue)
            self._write()
        self.connection.execute("UPDATE store SET next_seq = ?", (self._next,))
        return self._listeners()

    def _forget_seen(self) -> None:
        run = self.connection.execute
        oldest = "SELECT n FROM seen WHERE at >= ? ORDER BY n LIMIT 1"
        kept = run(oldest, (self.now - ONCE_FOR_MS,)).fetchall() or [(_ENDLESS,)]
        run("DELETE FROM seen WHERE n < max(?, (SELECT max(n) FROM seen) - ?)", (*kept[0], MOST_ONCE))
        self._forgotten = True

    def _insert(self, queue: QueueRecord, message: Outgoing) -> None:
        expires = None
        if queue.ttl is not None or message.expiration is not None:
            # The lower of the two counts (RabbitMQ, "Time-To-Live and Expiration").
            life = min(life for life in (queue.ttl, message.expiration) if life is not None)
            expires = self.now + life
            self._shortest_life = min(life, self._shortest_life)
        if queue.max_priority and message.priority:
            self._ranked.append((queue.rank(message.priority), self._next))
        self._rows.append(
            (self._next, queue.id, message.exchange, message.routing_key, expires, message.properties, message.body)
        )
        self._next += 1

    def _write(self) -> None:
        if self._rows:
            run = self.connection.execute
            self._insert_rows()
            run("INSERT INTO ready SELECT queue, 0, seq, 0 FROM message WHERE seq >= ?", (self._first,))
            if self._shortest_life < _ENDLESS:
                run(
                    "INSERT INTO expiry SELECT expires, seq, 0 FROM message WHERE seq >= ? AND expires NOTNULL",
                    (self._first,),
                )
            self._write_ranks()
            self._depth.update(row[1] for row in self._rows)
            self._filled.update(row[1] for row in self._rows)
            self._rows, self._first = [], self._next
        if self._depth:
            changes = [(count, queue) for queue, count in self._depth.items()]
            self.connection.executemany("UPDATE depth SET ready = ready + ? WHERE queue = ?", changes)
            self._depth.clear()

    def _insert_rows(self) -> None:
        # Many rows a statement: each lets go of the interpreter's lock, and where the application computes in another
        # thread, getting it again takes up to 5 ms (sys.getswitchinterval).
        done = 0
        for size, statement in _INSERTS:
            while len(self._rows) - done >= size:
                self.connection.execute(statement, tuple(chain.from_iterable(self._rows[done : done + size])))
                done += size

    def _write_ranks(self) -> None:
        if self._ranked:
            run = self.connection.executemany
            message = "FROM message WHERE seq = ?2"
            run(f"UPDATE ready SET rank = ?1 WHERE (queue, rank, seq) = (SELECT queue, 0, seq {message})", self._ranked)
            run(f"UPDATE expiry SET rank = ?1 WHERE (due, seq) = (SELECT expires, seq {message})", self._ranked)
            self._ranked = []

    def _limit(self, queue: QueueRecord) -> None:
        # Drops from the head (RabbitMQ, "Queue Length Limit").
        excess = self._excess(queue)
        letters = self.ready_head(queue, excess)
        self.remove_ready(letters)
        self.dead_letter(letters, "maxlen")
        self.connection.execute("UPDATE depth SET dropped = dropped + ? WHERE queue = ?", (excess, queue.id))

    def _excess(self, queue: QueueRecord) -> int:
        rows = self.connection.execute("SELECT ready FROM depth WHERE queue = ?", (queue.id,)).fetchall()
        return integer(rows[0][0]) - (queue.max_length or 0)

    def _listeners(self) -> set[str]:
        run = self.connection.execute
        if self._shortest_life < LOOK_EVERY_MS:
            # Whoever consumes may have to move it before the next look.
            return {text(row[0]) for row in run("SELECT fifo FROM listener")}
        query = "SELECT fifo FROM listener WHERE queue = ?"
        return {text(row[0]) for queue in self._filled for row in run(query, (queue,))}


def numbers(values: Iterable[int]) -> apsw.CArrayBinding:
    """Integers as one binding, to be read by `carray(?)` (https://www.sqlite.org/carray.html)."""
    return apsw.carray(array("q", values))


def now_ms() -> int:
    """The wall clock, which the store's due times are on because they outlive a boot, in milliseconds."""
    return time.time_ns() // 1_000_000
