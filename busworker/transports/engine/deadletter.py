"""What becomes of a message that leaves a queue unacknowledged (RabbitMQ, "Dead Letter Exchanges"). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec

from busworker.transports.engine import codec
from busworker.transports.engine.records import Outgoing, QueueRecord

Reason = Literal["expired", "rejected", "maxlen"]


class DeadLetter(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A stored message about to leave its queue. A row of `MESSAGE`."""

    seq: int
    queue: int
    rank: int
    exchange: str
    routing_key: str
    expires: int | None
    properties: bytes
    body: bytes


MESSAGE = "message.seq, message.queue, rank, message.exchange, message.routing_key, expires, properties, body"
"""The columns of a `DeadLetter`, in a query that joins `message` and a table with its rank."""


def dead_letters(rows: Sequence[tuple[object, ...]]) -> list[DeadLetter]:
    """Rows of the columns `MESSAGE`, checked."""
    return msgspec.convert(rows, list[DeadLetter])


def died(letter: DeadLetter, queue: QueueRecord, reason: Reason, now: int) -> tuple[Outgoing, frozenset[str]]:
    """The message as it is published to the queue's dead-letter exchange.

    It keeps its routing key unless the queue has one for dead letters, loses its expiration, and its headers say why
    it died, as RabbitMQ writes them (`x-death`, `x-first-death-*`).

    Returns:
        The message, and the queues it must not enter: it has been there, and nobody has rejected it since, so it
        would go round for ever ("Automatic Dead Lettering Cycles").
    """
    properties = codec.decode(letter.properties)
    headers = _table(properties.get("application_headers"))
    expiration, priority = properties.pop("expiration", None), properties.get("priority")
    deaths = _with_death(_deaths(headers), letter, queue.name, reason, now)
    if expiration is not None:
        deaths[0].setdefault("original-expiration", expiration)
    for key, value in (("reason", reason), ("queue", queue.name), ("exchange", letter.exchange)):
        headers.setdefault(f"x-first-death-{key}", value)
    properties["application_headers"] = {**headers, "x-death": deaths}
    message = Outgoing(
        exchange=queue.dead_letter_exchange or "",
        routing_key=letter.routing_key if queue.dead_letter_key is None else queue.dead_letter_key,
        properties=codec.encode(properties),
        body=letter.body,
        priority=priority if isinstance(priority, int) else 0,
    )
    return message, _visited(deaths)


def _with_death(
    deaths: list[dict[str, object]], letter: DeadLetter, queue: str, reason: Reason, now: int
) -> list[dict[str, object]]:
    # One entry for each (queue, reason), the latest first.
    same = [death for death in deaths if (death.get("queue"), death.get("reason")) == (queue, reason)]
    others = [death for death in deaths if death not in same]
    count = same[0].get("count") if same else 0
    latest: dict[str, object] = {
        "reason": reason,
        "queue": queue,
        "count": (count if isinstance(count, int) else 0) + 1,
        "exchange": letter.exchange,
        "routing-keys": [letter.routing_key],
        "time": datetime.fromtimestamp(now // 1000, UTC).replace(tzinfo=None),
    }
    return [{**(same[0] if same else {}), **latest}, *others]


def _visited(deaths: list[dict[str, object]]) -> frozenset[str]:
    if any(death.get("reason") == "rejected" for death in deaths):
        return frozenset()
    return frozenset(str(death.get("queue")) for death in deaths)


def _deaths(headers: Mapping[str, object]) -> list[dict[str, object]]:
    found = headers.get("x-death")
    return [_table(death) for death in found if isinstance(death, dict)] if isinstance(found, list) else []


def _table(value: object) -> dict[str, object]:
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}
