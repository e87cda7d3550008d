"""Messages in kombu's and py-amqp's form, to and from the store's."""

from __future__ import annotations

from typing import Any

from amqp.basic_message import Message as RawMessage
from amqp.exceptions import PreconditionFailed
from kombu.message import Message as KombuMessage

from busworker.transports.engine import codec
from busworker.transports.engine.records import Delivery, Outgoing


class Message(KombuMessage):
    """A message as kombu's consumers get it; made as `kombu.transport.pyamqp.Message` is."""

    def __init__(self, raw: Any, channel: Any = None, **kwargs: Any) -> None:
        properties = raw.properties
        super().__init__(
            body=raw.body,
            channel=channel,
            delivery_tag=raw.delivery_tag,
            content_type=properties.get("content_type"),
            content_encoding=properties.get("content_encoding"),
            delivery_info=raw.delivery_info,
            properties=properties,
            headers=properties.get("application_headers") or {},
            **kwargs,
        )


def prepared(body: bytes | str, properties: dict[str, Any]) -> Any:
    """A message to publish."""
    return RawMessage(body, **properties)


def outgoing(raw: Any, exchange: str, routing_key: str, mandatory: bool) -> Outgoing:
    """A message to publish as the store takes it; later changes of `raw` don't matter.

    Raises:
        amqp.exceptions.PreconditionFailed: its expiration isn't a number of milliseconds (AMQP 0-9-1 leaves the
            format to the broker; this is RabbitMQ's).
        TypeError, OverflowError: a property can't be stored.
    """
    properties = {key: value for key, value in raw.properties.items() if value is not None}
    return Outgoing(
        exchange,
        routing_key,
        codec.encode(properties),
        _bytes(raw.body, properties),
        _milliseconds(properties.get("expiration")),
        mandatory,
    )


def raw_message(delivery: Delivery, channel: Any, info: dict[str, object]) -> Any:
    """A stored message as py-amqp would hand it out; `info` is added to its delivery info."""
    raw = RawMessage(delivery.body, channel=channel)
    raw.properties = codec.decode(delivery.properties)
    raw.delivery_info = {
        **info,
        "redelivered": delivery.redelivered,
        "exchange": delivery.exchange,
        "routing_key": delivery.routing_key,
        "queue": delivery.queue,
        "cursor": delivery.seq,
    }
    return raw


def _bytes(body: object, properties: dict[str, Any]) -> bytes:
    if isinstance(body, bytes):
        return body
    if isinstance(body, str):
        # As py-amqp does: a string gets an encoding if it has none.
        return body.encode(properties.setdefault("content_encoding", "utf-8"))
    return bytes(body)  # type: ignore[call-overload,no-any-return]


def _milliseconds(expiration: object) -> int | None:
    if expiration is None:
        return None
    text = str(expiration)
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise PreconditionFailed(f"expiration={expiration!r} isn't a number of milliseconds")
    return int(text)
