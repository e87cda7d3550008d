"""pika and aio-pika beside us on RabbitMQ: what they publish we handle, and what we publish they get."""

import asyncio
import json
from collections.abc import Callable
from contextlib import closing

import aio_pika
import pika
import pytest

from tests.support import Stage
from tests.support.transports import on

SHOP = """
from busworker import Bus, RetryPolicy, Topic
from recording import record

bus = Bus("shop")

@bus.channel("pool").subscribe(Topic("order.placed", dict[str, int]), retry=RetryPolicy(2, delays=(0,)))
def handle(event, message):
    record("handled", str(event["n"]), message.attempt)
    if event["n"] == 2 and message.attempt == 1:
        raise ValueError("once")
"""
TOPIC = "order.placed"
PATIENCE = 10.0


def pika_publish(url: str, bodies: list[bytes]) -> None:
    with closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for body in bodies:
            channel.basic_publish("busworker", TOPIC, body, mandatory=True)


def aio_pika_publish(url: str, bodies: list[bytes]) -> None:
    async def publish() -> None:
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel(publisher_confirms=True)
            exchange = await channel.get_exchange("busworker")
            for body in bodies:
                await exchange.publish(aio_pika.Message(body), TOPIC)

    asyncio.run(publish())


@on("amqp")
@pytest.mark.parametrize("publish", [pika_publish, aio_pika_publish])
def test_a_bare_json_body_with_a_routing_key_is_handled(
    stage: Stage, broker: str, publish: Callable[[str, list[bytes]], None]
) -> None:
    stage.home.write("shop.py", SHOP)
    service = stage.start("shop")
    publish(broker, [json.dumps({"n": number}).encode() for number in range(5)] + [b'{"n": "one"}'])
    stage.wait_recorded(6)
    stage.wait_empty("shop")
    assert sorted((line.event, line.attempt) for line in stage.record("handled")) == sorted(
        [*((str(number), 1) for number in range(5)), ("2", 2)]
    )
    (letter,) = stage.dead()
    assert (letter["reason"], letter["topic"], letter["body"]) == ("invalid", TOPIC, {"n": "one"})
    assert service.terminate() == 0


@on("amqp")
def test_a_pika_subscriber_with_a_queue_of_its_own_gets_what_is_published(stage: Stage, broker: str) -> None:
    stage.home.write("shop.py", SHOP)
    service = stage.start("shop")
    with closing(pika.BlockingConnection(pika.URLParameters(broker))) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "busworker", "order.*")
        stage.publish(TOPIC, {"n": 1}, {"n": 2})
        got = list(_consumed(channel, queue, 2))
    stage.wait_recorded(3)
    assert [json.loads(body) for _, _, body in got] == [{"n": 1}, {"n": 2}]  # the retry of the second is no publish
    assert {method.routing_key for method, _, _ in got} == {TOPIC}
    told = [(one.content_type, one.type, one.delivery_mode, bool(one.message_id)) for _, one, _ in got]
    assert told == [("application/json", TOPIC, 2, True)] * 2
    assert service.terminate() == 0


@on("amqp")
def test_an_aio_pika_subscriber_gets_what_is_published(stage: Stage, broker: str) -> None:
    stage.home.write("shop.py", SHOP)
    service = stage.start("shop")

    async def subscribe() -> list[bytes]:
        async with await aio_pika.connect(broker) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind("busworker", "#")
            await asyncio.to_thread(stage.publish, TOPIC, {"n": 1}, {"n": 3})
            return [(await queue.get(timeout=PATIENCE, no_ack=True)).body for _ in range(2)]

    assert [json.loads(body) for body in asyncio.run(subscribe())] == [{"n": 1}, {"n": 3}]
    assert service.terminate() == 0


def _consumed(channel, queue: str, count: int):  # type: ignore[no-untyped-def]
    for number, got in enumerate(channel.consume(queue, auto_ack=True, inactivity_timeout=PATIENCE), 1):
        assert got[0] is not None, f"{count} messages within {PATIENCE:g} s"
        yield got
        if number == count:
            channel.cancel()
            return
