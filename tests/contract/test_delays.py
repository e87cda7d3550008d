"""What becomes of delayed messages on their way: with outcomes, retries, and queues that somebody has removed."""

from typing import Any

import kombu
import pytest
from kombu.transport.native_delayed_delivery import declare_native_delayed_delivery_exchanges_and_queues

from busworker import Topic
from busworker.broker import topology
from busworker.broker.declarer import Declarer
from busworker.broker.session import Session
from busworker.errors import PublishFailed
from busworker.letters import read_letter
from busworker.message import Outgoing, read_envelope
from tests.contract.bench import FAILED, PATIENCE, Bench, ack, end, event, fetched, queued
from tests.support import Home

placed = Topic("order.placed", int)


def delayed(seconds: float) -> Outgoing:
    """A delayed message with all that a publisher can give it."""
    one = event("order.placed", b"7", message_id="late", priority=3, correlation_id="c", app_id="shop", type="x")
    return Outgoing(one.exchange, one.routing_key, one.body, one.properties, {"mine": "kept"}, seconds)


def test_what_a_handler_delays_goes_out_with_its_outcome_and_can_fail(bench: Bench, session: Session) -> None:
    first = session.declare_work("order.begun", "shop", "pool")
    session.publish([event("order.begun")])
    consumer = bench.consumer(first)
    (begun,) = fetched(consumer, 1)
    consumer.settle([ack(begun, delayed(0.5))])
    work = session.declare_work("order.placed", "shop", "pool")
    consumer.consume(work, 10)
    (late,) = fetched(consumer, 1)
    assert (late.body, late.headers["mine"]) == (b"7", "kept")
    assert late.properties == delayed(0.5).properties
    end(consumer, late, FAILED, delays=(0,))
    (again,) = fetched(consumer, 1)
    assert (read_envelope(again).topic, read_envelope(again).attempt) == ("order.placed", 2)
    end(consumer, again, FAILED, max_attempts=2)
    (dead,) = queued(session, topology.dead_queue(work), 1)
    letter = read_letter(dead)
    assert (letter.topic, letter.attempts, letter.reason) == ("order.placed", 2, "exception")
    assert (letter.headers, dead.properties) == ({"mine": "kept"}, late.properties)


def test_queues_that_are_gone_are_declared_again_for_the_next_delayed_message(amqp_url: str, home: Home) -> None:
    with Bench(amqp_url, home) as bench:
        work = bench.session().declare_work("order.placed", "shop", "pool")
        bus = bench.bus()
        bus.publish(placed, 1, delay=1).wait(PATIENCE)
        channel: Any = bench.kombu().channel()
        channel.queue_delete("busworker_celery_delayed_0")  # and the message with it
        bus.publish(placed, 2, delay=1).wait(PATIENCE)
        assert [one.body for one in fetched(bench.consumer(work), 1)] == [b"2"]


def test_a_delay_that_finds_no_queues_fails_its_receipt_alone(amqp_url: str, home: Home) -> None:
    with Bench(amqp_url, home) as bench:
        channel: Any = bench.kombu().channel()
        channel.queue_declare("busworker_celery_delayed_27", durable=True, auto_delete=False)
        bus = bench.bus()
        late, now = bus.publish(placed, 1, delay=1), bus.publish(placed, 2)
        assert now.wait(PATIENCE).state == "confirmed"
        with pytest.raises(PublishFailed, match="queue 'busworker_celery_delayed_27' exists with"):
            late.wait(PATIENCE)
        assert late.state == "failed"


def test_the_queues_are_those_of_kombu_and_take_no_channel_each_time(amqp_url: str) -> None:
    with kombu.Connection(amqp_url) as connection:
        declarer = Declarer(connection.channel(), topology.Flavour("quorum"))
        declarer.base()
        declarer.delays()
        link: Any = connection.connection
        channels = len(link.channels)
        declarer.again()
        declarer.delays()
        assert len(link.channels) == channels
        # Refused if an argument or a type differs.
        declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum", topology.DELAY_PREFIX)
