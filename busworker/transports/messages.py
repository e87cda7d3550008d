"""Messages in kombu's and py-amqp's form, to and from the store's."""

from __future__ import annotations

from typing import Any

from amqp.exceptions import PreconditionFailed
from kombu.message import Message as KombuMessage

from busworker.transports.engine import codec
from busworker.transports.engine.records import Delivery, Outgoing
from busworker.transports.raw import RawMessage


class Message(KombuMessage):
    """A message as kombu's consumers get it; made as `kombu.transport.pyamqp.Message` is."""

    def __init__(self, raw: Any, channel: Any = None, **kwargs: Any) -> None:
        properties = raw.properties
        super().__init__(  # type: ignore[no-untyped-call]
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
    return RawMessage(body, properties)


def outgoing(raw: Any, exchange: str, routing_key: str, mandatory: bool, once: bytes = b"") -> Outgoing:
    """A message to publish as the store takes it; later changes of `raw` don't matter.

    Raises:
        amqp.exceptions.PreconditionFailed: its expiration isn't a number of milliseconds (AMQP 0-9-1 leaves the
            format to the broker; this is RabbitMQ's).
        TypeError, OverflowError: a property can't be stored.
    """
    properties = raw.properties
    body = raw.body if type(raw.body) is bytes else _bytes(raw.body, properties)
    expiration, priority = properties.get("expiration"), properties.get("priority")
    return Outgoing(
        exchange,
        routing_key,
        codec.encode(properties),
        body,
        None if expiration is None else _milliseconds(expiration),
        mandatory,
        priority if type(priority) is int else 0,
        once,
    )


def raw_message(delivery: Delivery, channel: Any, delivery_tag: int | None, consumer_tag: str | None) -> RawMessage:
    """A stored message as py-amqp would hand it out."""
    info = {
        "consumer_tag": consumer_tag,
        "delivery_tag": delivery_tag,
        "redelivered": delivery.redelivered,
        "exchange": delivery.exchange,
        "routing_key": delivery.routing_key,
        "queue": delivery.queue,
        "cursor": delivery.seq,
    }
    return RawMessage(delivery.body, codec.decode(delivery.properties), channel, info)


def decode_body(raw: RawMessage) -> None:
    """Makes the body text where it has an encoding that fits; else it stays bytes (py-amqp, `auto_decode`)."""
    encoding = raw.properties.get("content_encoding")
    if encoding:
        try:
            raw.body = raw.body.decode(encoding)
        except (LookupError, UnicodeError, TypeError):
            pass


def _bytes(body: object, properties: dict[str, Any]) -> bytes:
    if isinstance(body, str):
        # As py-amqp does: a string gets an encoding if it has none.
        encoding = properties["content_encoding"] = properties.get("content_encoding") or "utf-8"
        return body.encode(encoding)
    return bytes(body)  # type: ignore[call-overload,no-any-return]


def _milliseconds(expiration: object) -> int:
    text = str(expiration)
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise PreconditionFailed(f"expiration={expiration!r} isn't a number of milliseconds")
    return int(text)
