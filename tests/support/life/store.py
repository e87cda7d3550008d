"""The store as others than the pool see it: they publish, look at dead letters and replay them."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Literal, TypeAlias

import kombu

from busworker.broker.session import Counts, Session, open_session
from busworker.broker.topology import dead_queue, retry_queues, work_queue
from busworker.deadletters import replay
from busworker.declaration import SubscriptionSpec
from busworker.letters import Filter, read_letter
from busworker.message import BUS_EXCHANGE, TOPIC, Outgoing
from tests.support.life.table import Rules, Table, Violation
from tests.support.waiting import wait_until

CHANNEL = "pool"
SUBSCRIPTIONS = (
    SubscriptionSpec("a.made", False, 3, (0.0, 1.0), None, 5.0),
    SubscriptionSpec("b.#", True, 2, (0.0,), None, 5.0),
)
RULES = {"a": Rules(3, (0, 1)), "b": Rules(2, (0,))}
PATIENCE = 10.0
"""Seconds for a broker's counts."""

Kind: TypeAlias = Literal["event", "pattern", "foreign", "stray"]
"""A message of ours to each subscription, one without an id, and one in a queue that doesn't serve its topic."""


class Store:
    """Has a session for each thing it does: it forks between them. Its service is its own, others may use the bus."""

    def __init__(self, url: str, table: Table, happened: Counter[str]) -> None:
        self._url, self._table, self._happened = url, table, happened
        self._bodies = 0
        self.service = f"life-{uuid.uuid4().hex[:8]}"
        self._work = [work_queue(spec.topic, self.service, CHANNEL) for spec in SUBSCRIPTIONS]
        self._dead = [dead_queue(queue) for queue in self._work]
        with self._session() as session:
            self.pushes = session.pushes
            session.declare()
            for spec in SUBSCRIPTIONS:
                session.declare_work(spec.topic, self.service, CHANNEL)

    def publish(self, kind: Kind) -> None:
        """One message, with a body of its own."""
        self._bodies += 1
        body = f"m{self._bodies}".encode()
        properties: dict[str, object] = {} if kind == "foreign" else {"message_id": body.decode()}
        match kind:
            case "event" | "foreign":
                outgoing = Outgoing(BUS_EXCHANGE, "a.made", body, properties, {})
            case "pattern":
                outgoing = Outgoing(BUS_EXCHANGE, "b.made", body, properties, {})
            case "stray":
                outgoing = Outgoing("", self._work[0], body, properties, {TOPIC: "z.made"})
        with self._session() as session:
            session.publish([outgoing])
        self._table.published(body, RULES["b" if kind == "pattern" else "a"], served=kind != "stray")
        self._happened[f"published: {kind}"] += 1

    def replay(self) -> None:
        """All dead letters run again."""
        dead = [body for body, life in self._table.lives.items() if life.state == "dead"]
        with self._session() as session:
            count = replay(session, self._dead, Filter(), None, time.time)
        if count != len(dead):
            raise Violation(f"{count} dead letters for {len(dead)} dead messages: {dead}")
        for body in dead:
            self._table.replayed(body)
        self._happened["replayed"] += count

    def check(self) -> None:
        """Nothing is left but the dead letters, each once, for the reason and after the attempts of the table."""
        with self._session() as session:
            for queue in (*self._work, *self._retries()):
                wait_until(lambda: self._is_empty(session, queue), PATIENCE, f"{queue} to be empty at the end")  # noqa: B023
            letters = sorted(self._letters(session))
        dead = sorted((body, *life.dead) for body, life in self._table.lives.items() if life.state == "dead")
        if letters != dead:
            raise Violation(f"the dead letters are {letters}, and should be {dead}")

    def close(self) -> None:
        """Leaves nothing on a bus that others use."""
        if self.pushes:
            with kombu.Connection(self._url) as connection:
                for queue in (*self._work, *self._dead):
                    connection.default_channel.queue_delete(queue)

    def _session(self) -> closing[Session]:
        return closing(open_session(self._url))

    def _is_empty(self, session: Session, queue: str) -> bool:
        counts = session.counts(queue)
        return counts in (None, Counts(0, 0), Counts(0, None)) and not session.waiting(queue)

    def _retries(self) -> list[str]:
        return retry_queues() if self.pushes else []

    def _letters(self, session: Session) -> Iterator[tuple[bytes, str, int]]:
        for queue in self._dead:
            for delivery in session.browse(queue):
                letter = read_letter(delivery)
                yield delivery.body, letter.reason or "", letter.attempts
