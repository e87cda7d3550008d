"""Between py-amqp's messages and channels and ours: what every use of a kombu channel needs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import kombu
from amqp.basic_message import Message as AmqpMessage
from amqp.exceptions import NotFound

from busworker.message import Delivery, Outgoing
from busworker.transports.raw import RawMessage

CLOSE_TIMEOUT = 1.0
"""Seconds that a broker may take to answer a goodbye; one that doesn't answer must not hold us up."""


def link(connection: kombu.Connection) -> Any:
    """The transport's own connection, which kombu gives no type."""
    return connection.connection


def close(connection: kombu.Connection, *, lost: bool) -> None:
    """Closes an AMQP connection. Waits `CLOSE_TIMEOUT` seconds for the broker's answer; not at all if it is lost."""
    if connection.connected:
        if lost:
            link(connection).collect()
        else:
            link(connection).patience = CLOSE_TIMEOUT
    connection.release()


@contextmanager
def patient(link: Any, seconds: float) -> Generator[None]:
    """Waits so long for answers meanwhile."""
    before, link.patience = link.patience, seconds
    try:
        yield
    finally:
        link.patience = before


def ready(channel: Any, queue: str) -> int:
    """How many messages of a queue can be fetched; the queue must exist."""
    return int(channel.queue_declare(queue, passive=True).message_count)


def ready_if_exists(channel: Any, queue: str) -> int | None:
    """The same; None if there is no such queue, which closes the channel."""
    try:
        return ready(channel, queue)
    except NotFound:
        return None


def consumers_if_exists(channel: Any, queue: str) -> int | None:
    """How many consume from a queue; None if there is no such queue, which closes the channel."""
    try:
        return int(channel.queue_declare(queue, passive=True).consumer_count)
    except NotFound:
        return None


def info(raw: AmqpMessage) -> dict[str, Any]:
    """What came with a message at its delivery."""
    return raw.delivery_info or {}


def undecoded(kombu_channel: Any) -> Any:
    """The channel itself, told to leave bodies as bytes: py-amqp would decode them by their content_encoding."""
    kombu_channel.auto_decode = False
    return kombu_channel


def conclude(kombu_channel: Any, tag: int, verb: str) -> None:
    """Acknowledges a delivery, or gives it back."""
    if verb == "ack":
        kombu_channel.basic_ack(tag)
    else:
        kombu_channel.basic_reject(tag, requeue=True)


def message(outgoing: Outgoing, properties: dict[str, Any]) -> AmqpMessage:
    """What is published, with these properties."""
    if outgoing.headers:
        properties = {**properties, "application_headers": outgoing.headers}
    return RawMessage(outgoing.body, properties)


def read_delivery(raw: AmqpMessage, tag: int, queue: str) -> Delivery:
    """A delivery, under a tag of the session's own."""
    properties: dict[str, object] = raw.properties  # fresh at each delivery
    headers = properties.pop("application_headers", None)
    body, came = raw.body, info(raw)
    return Delivery(
        tag=tag,
        queue=queue,
        routing_key=came["routing_key"],
        redelivered=bool(came.get("redelivered")),
        properties=properties,
        headers=headers if isinstance(headers, dict) else {},
        body=body if isinstance(body, bytes) else str(body).encode(),
    )
