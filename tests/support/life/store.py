"""The store as others than the pool see it: they publish, look at dead letters and replay them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Literal, TypeAlias

from busworker.broker.session import Counts, Session, open_session
from busworker.broker.topology import dead_queue, work_queue
from busworker.deadletters import replay
from busworker.declaration import SubscriptionSpec
from busworker.letters import Filter, read_letter
from busworker.message import BUS_EXCHANGE, TOPIC, Outgoing
from tests.support.life.table import Rules, Table, Violation

SERVICE, CHANNEL = "life", "pool"
SUBSCRIPTIONS = (
    SubscriptionSpec("a.made", False, 3, (0.0, 1.0), None, 5.0),
    SubscriptionSpec("b.#", True, 2, (0.0,), None, 5.0),
)
RULES = {"a": Rules(3, (0, 1)), "b": Rules(2, (0,))}
WORK = [work_queue(spec.topic, SERVICE, CHANNEL) for spec in SUBSCRIPTIONS]
DEAD = [dead_queue(queue) for queue in WORK]

Kind: TypeAlias = Literal["event", "pattern", "foreign", "stray"]
"""A message of ours to each subscription, one without an id, and one in a queue that doesn't serve its topic."""


class Store:
    """Has a session for each thing it does: it forks between them."""

    def __init__(self, url: str, table: Table, happened: Counter[str]) -> None:
        self._url, self._table, self._happened = url, table, happened
        self._bodies = 0
        with self._session() as session:
            session.declare()
            for spec in SUBSCRIPTIONS:
                session.declare_work(spec.topic, SERVICE, CHANNEL)

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
                outgoing = Outgoing("", WORK[0], body, properties, {TOPIC: "z.made"})
        with self._session() as session:
            session.publish([outgoing])
        self._table.published(body, RULES["b" if kind == "pattern" else "a"], served=kind != "stray")
        self._happened[f"published: {kind}"] += 1

    def replay(self) -> None:
        """All dead letters run again."""
        dead = [body for body, life in self._table.lives.items() if life.state == "dead"]
        with self._session() as session:
            count = replay(session, DEAD, Filter(), None, time.time)
        if count != len(dead):
            raise Violation(f"{count} dead letters for {len(dead)} dead messages: {dead}")
        for body in dead:
            self._table.replayed(body)
        self._happened["replayed"] += count

    def check(self) -> None:
        """Nothing is left but the dead letters, each once, for the reason and after the attempts of the table."""
        with self._session() as session:
            for queue in WORK:
                counts, waiting = session.counts(queue), session.waiting(queue)
                if counts != Counts(0, 0) or waiting:
                    raise Violation(f"{queue} holds {counts} and {waiting} in its retry queues at the end")
            letters = sorted(_letters(session))
        dead = sorted((body, *life.dead) for body, life in self._table.lives.items() if life.state == "dead")
        if letters != dead:
            raise Violation(f"the dead letters are {letters}, and should be {dead}")

    def _session(self) -> closing[Session]:
        return closing(open_session(self._url))


def _letters(session: Session) -> Iterator[tuple[bytes, str, int]]:
    for queue in DEAD:
        for delivery in session.browse(queue):
            letter = read_letter(delivery)
            yield delivery.body, letter.reason or "", letter.attempts
