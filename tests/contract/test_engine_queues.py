"""What an exchange and a queue of the engine do, and kombu programs that know nothing of us."""

import queue as queues
from typing import Any

import kombu
import pytest
from amqp.basic_message import Message as AmqpMessage
from amqp.exceptions import NotFound, PreconditionFailed

from busworker.broker.session import Counts
from busworker.brokers import EMBEDDED
from busworker.errors import TopologyMismatch
from tests.contract.bench import Bench
from tests.support import wait_until


@pytest.fixture
def channel(engine: Bench) -> Any:
    """A channel of a foreign program."""
    return engine.kombu().channel()


def put(channel: Any, body: str, queue: str, **properties: object) -> None:
    channel.basic_publish(AmqpMessage(body, **properties), "", queue)


def bodies(channel: Any, queue: str) -> list[str]:
    return [raw.body.decode() for raw in channel.browse(queue)]


def expired(channel: Any, dead: str) -> list[str]:
    """The bodies in a queue, after what is due was moved: that happens when somebody fetches, whatever it be."""
    channel.queue_declare("any", auto_delete=False)
    assert channel.basic_get("any") is None
    return bodies(channel, dead)


# What a queue does


def test_an_expired_message_goes_to_the_dead_letter_exchange_with_its_history(channel: Any) -> None:
    channel.exchange_declare("dlx", "fanout", durable=True, auto_delete=False)
    channel.queue_declare("dead", auto_delete=False)
    channel.queue_bind("dead", "dlx", "")
    arguments = {"x-message-ttl": 1000, "x-dead-letter-exchange": "dlx"}
    channel.queue_declare("short", auto_delete=False, arguments=arguments)
    put(channel, "soon", "short", expiration="60000")
    put(channel, "sooner", "short", expiration="1")
    wait_until(lambda: expired(channel, "dead") == ["sooner", "soon"], 5, "both dead, each after the lower of its TTLs")
    raw = channel.basic_get("dead")
    assert raw.delivery_info["routing_key"] == "short"
    (death,) = raw.properties["application_headers"]["x-death"]
    assert (death["reason"], death["queue"], death["count"]) == ("expired", "short", 1)
    assert death["original-expiration"] == "1"
    assert "expiration" not in raw.properties


def test_a_claimed_message_does_not_expire(channel: Any) -> None:
    channel.queue_declare("dead", auto_delete=False)
    arguments = {"x-message-ttl": 200, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    channel.queue_declare("short", auto_delete=False, arguments=arguments)
    put(channel, "held", "short")
    raw = wait_until(lambda: channel.basic_get("short"), 1, "the message, before it expires")
    put(channel, "other", "short")
    wait_until(lambda: expired(channel, "dead") == ["other"], 5, "the other's end")
    channel.basic_reject(raw.delivery_tag, requeue=False)
    assert bodies(channel, "dead") == ["other", "held"]


def test_a_rejected_message_goes_to_the_dead_letter_queue(channel: Any) -> None:
    channel.queue_declare("dead", auto_delete=False)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    channel.queue_declare("work", auto_delete=False, arguments=arguments)
    put(channel, "bad", "work")
    channel.basic_reject(channel.basic_get("work").delivery_tag, requeue=False)
    assert (bodies(channel, "work"), bodies(channel, "dead")) == ([], ["bad"])


def test_a_full_queue_drops_the_oldest(channel: Any) -> None:
    channel.queue_declare("dropped", auto_delete=False)
    arguments = {"x-max-length": 3, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dropped"}
    channel.queue_declare("ring", auto_delete=False, arguments=arguments)
    for number in range(5):
        put(channel, str(number), "ring")
    assert bodies(channel, "ring") == ["2", "3", "4"]
    assert bodies(channel, "dropped") == ["0", "1"]


def test_what_is_claimed_does_not_count_against_the_limit(channel: Any) -> None:
    channel.queue_declare("ring", auto_delete=False, arguments={"x-max-length": 2})
    put(channel, "held", "ring")
    raw = channel.basic_get("ring")
    for number in range(2):
        put(channel, str(number), "ring")
    assert bodies(channel, "ring") == ["0", "1"]
    channel.basic_ack(raw.delivery_tag)


def test_higher_priorities_come_first_and_keep_their_place_when_given_back(channel: Any) -> None:
    channel.queue_declare("ranked", auto_delete=False, arguments={"x-max-priority": 5})
    for body, priority in (("low", 1), ("none", None), ("high", 5), ("beyond", 9), ("low too", 1)):
        put(channel, body, "ranked", priority=priority)
    order = ["high", "beyond", "low", "low too", "none"]
    for _ in range(2):
        held = [channel.basic_get("ranked") for _ in range(5)]
        assert [raw.body for raw in held] == order
        channel.basic_recover(requeue=True)
    assert sorted(bodies(channel, "ranked")) == sorted(order)
    assert channel.queue_purge("ranked") == 5
    assert channel.basic_get("ranked") is None


def test_messages_of_every_priority_expire_and_keep_it_as_dead_letters(channel: Any) -> None:
    channel.queue_declare("dead", auto_delete=False, arguments={"x-max-priority": 9})
    ttl = {"x-max-priority": 9, "x-message-ttl": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    channel.queue_declare("ranked", auto_delete=False, arguments=ttl)
    put(channel, "low", "ranked", priority=2)
    put(channel, "high", "ranked", priority=7)
    wait_until(lambda: sorted(expired(channel, "dead")) == ["high", "low"], 5, "both dead")
    assert [channel.basic_get("dead").body for _ in range(2)] == ["high", "low"]
    assert channel.queue_declare("ranked", passive=True).message_count == 0


def test_without_a_highest_priority_a_queue_ignores_priorities(channel: Any) -> None:
    channel.queue_declare("plain", auto_delete=False)
    put(channel, "first", "plain", priority=0)
    put(channel, "second", "plain", priority=9)
    assert [channel.basic_get("plain").body for _ in range(2)] == ["first", "second"]


def test_the_alternate_exchange_gets_what_cannot_be_routed(channel: Any) -> None:
    channel.exchange_declare("rest", "fanout", durable=True, auto_delete=False)
    channel.exchange_declare("main", "direct", auto_delete=False, arguments={"alternate-exchange": "rest"})
    for queue, exchange, key in (("known", "main", "a"), ("others", "rest", "")):
        channel.queue_declare(queue, auto_delete=False)
        channel.queue_bind(queue, exchange, key)
    for key in ("a", "b"):
        channel.basic_publish(AmqpMessage(key), "main", key)
    assert (bodies(channel, "known"), bodies(channel, "others")) == (["a"], ["b"])


def test_declaring_with_other_arguments_is_refused(engine: Bench, channel: Any) -> None:
    engine.session()
    channel.queue_declare("work", auto_delete=False, arguments={"x-max-length": 3})
    with pytest.raises(TopologyMismatch, match="x-max-length"):
        channel.queue_declare("work", auto_delete=False, arguments={"x-max-length": 4})
    channel.exchange_declare("news", "fanout", auto_delete=False)
    with pytest.raises(TopologyMismatch, match="type='fanout'"):
        channel.exchange_declare("news", "topic", auto_delete=False)
    with pytest.raises(TopologyMismatch, match="alternate-exchange"):
        channel.exchange_declare("busworker", "topic", auto_delete=False)


# kombu programs


def test_a_simple_queue_works(engine: Bench) -> None:
    with engine.kombu().SimpleQueue("letters") as letters:
        for number in range(3):
            letters.put({"number": number})
        assert letters.qsize() == 3
        for number in range(3):
            message = letters.get(timeout=5)
            assert message.payload == {"number": number}
            message.ack()
        with pytest.raises(queues.Empty):
            letters.get(block=False)


def test_a_producer_and_a_consumer_work(engine: Bench) -> None:
    exchange = kombu.Exchange("media", "topic", durable=True)
    video = kombu.Queue("video", exchange=exchange, routing_key="video.#")
    got: list[tuple[object, str]] = []

    def handle(body: object, message: kombu.Message) -> None:
        got.append((body, message.delivery_info["routing_key"]))
        message.requeue() if len(got) == 1 else message.ack()

    connection = engine.kombu()
    producer = connection.Producer(serializer="json")
    producer.publish({"name": "a"}, exchange=exchange, routing_key="video.new", declare=[video])
    producer.publish({"name": "b"}, exchange=exchange, routing_key="audio.new", declare=[video])
    with connection.Consumer([video], callbacks=[handle], prefetch_count=1):
        while len(got) < 2:
            connection.drain_events(timeout=5)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.01)
    assert got == [({"name": "a"}, "video.new")] * 2
    assert engine.session().counts("video") == Counts(0, 0)


def test_a_fanout_reaches_the_queues_of_all_consumers_and_temporary_ones_go_with_theirs(engine: Bench) -> None:
    exchange = kombu.Exchange("news", "fanout")
    connections = [engine.kombu() for _ in range(2)]
    got: list[object] = []
    consumers = []
    for connection in connections:
        queue = kombu.Queue("", exchange, exclusive=True, auto_delete=True)
        consumers.append(connection.Consumer([queue], callbacks=[lambda body, message: got.append(body)], no_ack=True))
        consumers[-1].consume()
    connections[0].Producer().publish("hello", exchange=exchange)
    for connection in connections:
        connection.drain_events(timeout=5)
    assert got == ["hello"] * 2
    names = [queue.name for consumer in consumers for queue in consumer.queues]
    for connection in connections:
        connection.close()
    assert not set(names) & set(engine.kombu().channel().queue_names())


def test_a_channel_goes_on_after_an_error(channel: Any) -> None:
    with pytest.raises(NotFound):
        channel.queue_declare("missing", passive=True)
    with pytest.raises(NotFound):
        channel.basic_consume("missing")
    with pytest.raises(PreconditionFailed):
        channel.basic_ack(99)
    channel.queue_declare("there", auto_delete=False)
    put(channel, "x", "there")
    assert bodies(channel, "there") == ["x"]


def test_the_transports_are_named_by_their_schemes(engine: Bench) -> None:
    assert EMBEDDED[engine.scheme] in (
        "busworker.transports:FilesystemTransport",
        "busworker.transports:MemoryTransport",
    )
    with kombu.Connection(engine.url, transport=EMBEDDED[engine.scheme]) as connection:
        assert connection.connect() is not None
        assert connection.connected
