"""The bare loops that `amqp_rates.py` compares with: py-amqp with nothing around it, and kombu's own confirms."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import Any

import kombu
from amqp.basic_message import Message
from amqp_meter import Figure, Meter
from amqp_service import EVENT

WAIT = 60.0
WINDOW, PREFETCH = 1000, 500
BODY = b'{"user_id": 42, "email": "somebody@example.org", "note": "%s"}' % (b"x" * 92)
PROPERTIES: dict[str, Any] = {
    "content_type": "application/json",
    "delivery_mode": 2,
    "message_id": "0190f5a1b2c37def8123456789abcdef",
    "type": "bench.noop",
    "timestamp": 1_760_000_000,
    "app_id": "sender",
}


class Raw:
    """One process, one connection: a window of unconfirmed messages; one acknowledgement for each message."""

    def __init__(self, meter: Meter, url: str, queue_type: str) -> None:
        self._meter, self._url, self._type = meter, url, queue_type

    def publish(self, count: int) -> Figure:
        """From the first publish to the last confirm."""
        with kombu.Connection(self._url) as connection:
            channel: Any = connection.channel()
            channel.queue_declare("raw", durable=True, auto_delete=False, arguments={"x-queue-type": self._type})
            self._meter.begin()
            publish_confirmed(connection, channel, "raw", (Message(BODY, **PROPERTIES) for _ in range(count)))
            return self._meter.end(None, count)

    def drain(self, count: int) -> Figure:
        """From the first delivery that is asked for to the last acknowledgement."""
        with kombu.Connection(self._url) as connection:
            channel: Any = connection.channel()
            channel.basic_qos(0, PREFETCH, False)
            done = 0

            def handle(message: Any) -> None:
                nonlocal done
                channel.basic_ack(message.delivery_tag)
                done += 1

            self._meter.begin()
            channel.basic_consume("raw", callback=handle)
            while done < count:
                connection.drain_events(timeout=WAIT)
            return self._meter.end(None, count)

    def empty(self) -> None:
        """Drops what was published."""
        purge(self._url, "raw")

    def stop(self) -> None:
        """Nothing of it runs."""


class KombuConfirms:
    """kombu with `confirm_publish`: it waits for each confirm. It only publishes."""

    def __init__(self, meter: Meter, url: str) -> None:
        self._meter, self._url = meter, url

    def publish(self, count: int) -> Figure:
        """From the first publish to the last confirm."""
        with kombu.Connection(self._url, transport_options={"confirm_publish": True}) as connection:
            queue = kombu.Queue("one-by-one", queue_arguments={"x-queue-type": "classic"})
            producer = connection.Producer()
            producer.publish(EVENT, routing_key="one-by-one", declare=[queue])
            self._meter.begin()
            for _ in range(count):
                producer.publish(EVENT, routing_key="one-by-one")
            return self._meter.end(None, count)

    def empty(self) -> None:
        """Drops what was published."""
        purge(self._url, "one-by-one")

    def stop(self) -> None:
        """Nothing of it runs."""


def purge(url: str, queue: str) -> None:
    """Drops the messages of a queue."""
    with kombu.Connection(url) as connection:
        connection.channel().queue_purge(queue)


def publish_confirmed(connection: kombu.Connection, channel: Any, queue: str, messages: Iterable[Message]) -> None:
    """Publishes with a window of unconfirmed messages, and returns once all are confirmed."""
    unconfirmed: dict[int, None] = {}
    _watch_confirms(channel, unconfirmed)
    for number, message in enumerate(messages, 1):
        unconfirmed[number] = None
        channel.basic_publish(message, "", queue)
        while len(unconfirmed) >= WINDOW:
            connection.drain_events(timeout=WAIT)
    while unconfirmed:
        connection.drain_events(timeout=WAIT)


def _watch_confirms(channel: Any, unconfirmed: dict[int, None]) -> None:
    """Takes what the broker confirms out of a dictionary whose keys are in order."""

    def acked(tag: int, multiple: bool) -> None:
        for one in list(takewhile(lambda one: one <= tag, unconfirmed)) if multiple else [tag]:
            del unconfirmed[one]

    def nacked(tag: int, multiple: bool) -> None:
        raise SystemExit(f"the broker refused message {tag}")

    channel.confirm_select()
    channel.events["basic_ack"].add(acked)
    channel.events["basic_nack"].add(nacked)
