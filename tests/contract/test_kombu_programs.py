"""Programs written for kombu and for nothing of ours: those of its documentation, the same on every transport."""

import threading
from collections.abc import Callable
from typing import Any

import kombu
import pytest
from amqp.exceptions import NotFound
from kombu import Consumer, Exchange, Producer, Queue
from kombu.asynchronous import Hub
from kombu.common import drain_consumer, eventloop, itermessages, maybe_declare, uuid
from kombu.mixins import ConsumerMixin, ConsumerProducerMixin
from kombu.pools import connections, producers

from tests.contract.bench import PATIENCE, Bench
from tests.support import wait_until

TASKS = Exchange("tasks", type="direct")
QUEUES = [Queue(name, TASKS, routing_key=name) for name in ("high", "mid", "low")]


def got(queue: Any) -> Any:
    """The next message of a queue, which may take a moment on RabbitMQ."""
    return wait_until(queue.get, PATIENCE, f"a message in {queue.name}")


def test_the_complete_example_of_the_user_guide(bench: Bench) -> None:
    media, received = Exchange("media", "direct", durable=True), []
    video = Queue("video", exchange=media, routing_key="video")

    def process_media(body: object, message: kombu.Message) -> None:
        received.append(body)
        message.ack()

    connection = bench.kombu()
    producer = connection.Producer(serializer="json")
    producer.publish(
        {"name": "/tmp/lolcat1.avi", "size": 1301013}, exchange=media, routing_key="video", declare=[video]
    )
    with connection.Consumer(video, callbacks=[process_media]):
        connection.drain_events(timeout=PATIENCE)
    assert received == [{"name": "/tmp/lolcat1.avi", "size": 1301013}]


class Worker(ConsumerMixin):
    """The worker of the simple task queue example; stops after a number of tasks."""

    def __init__(self, connection: kombu.Connection, tasks: int) -> None:
        self.connection, self.tasks, self.done = connection, tasks, list[str]()

    def get_consumers(self, consumer: Any, channel: Any) -> list[Any]:
        return [consumer(queues=QUEUES, accept=["json"], callbacks=[self.process_task])]

    def process_task(self, body: str, message: kombu.Message) -> None:
        self.done.append(body)
        message.ack()
        self.should_stop = len(self.done) == self.tasks


def test_the_simple_task_queue_of_the_examples(bench: Bench) -> None:
    connection = bench.kombu()
    with producers[connection].acquire(block=True) as producer:
        for number in range(30):
            key = ("high", "mid", "low")[number % 3]
            producer.publish(
                f"task {number}",
                serializer="json",
                compression="bzip2",
                exchange=TASKS,
                declare=[TASKS, *QUEUES],
                routing_key=key,
            )
    worker = Worker(bench.kombu(), 30)
    for _ in worker.consume(limit=30, timeout=PATIENCE):
        pass
    assert sorted(worker.done) == sorted(f"task {number}" for number in range(30))
    connections[connection].force_close_all()
    producers[connection].force_close_all()


class Answering(ConsumerProducerMixin):
    """The server of the RPC example."""

    def __init__(self, connection: kombu.Connection) -> None:
        self.connection = connection

    def get_consumers(self, consumer: Any, channel: Any) -> list[Any]:
        return [consumer(queues=[Queue("rpc_queue")], on_message=self.on_request, accept={"application/json"})]

    def on_request(self, message: kombu.Message) -> None:
        self.producer.publish(
            {"result": message.payload["n"] * 2},
            exchange="",
            routing_key=message.properties["reply_to"],
            correlation_id=message.properties["correlation_id"],
            serializer="json",
            retry=True,
        )
        message.ack()
        self.should_stop = True


def test_remote_procedure_calls_of_the_examples(bench: Bench) -> None:
    server = Answering(bench.kombu())
    thread = threading.Thread(target=lambda: list(server.consume(limit=None, timeout=PATIENCE)))
    connection = bench.kombu()
    replies, answers = Queue(uuid(), exclusive=True, auto_delete=True), []

    def on_response(message: kombu.Message) -> None:
        if message.properties["correlation_id"] == correlation:
            answers.append(message.payload["result"])

    correlation = uuid()
    with Consumer(connection, on_message=on_response, queues=[replies], no_ack=True):
        thread.start()
        Producer(connection).publish(
            {"n": 21},
            exchange="",
            routing_key="rpc_queue",
            declare=[replies, Queue("rpc_queue")],
            reply_to=replies.name,
            correlation_id=correlation,
        )
        connection.drain_events(timeout=PATIENCE)
    thread.join(PATIENCE)
    assert answers == [42]


def test_a_simple_buffer_and_a_simple_queue(bench: Bench) -> None:
    with bench.kombu().SimpleQueue("simple") as queue:
        for number in range(5):
            queue.put({"hello": number})
        wait_until(lambda: queue.qsize() == 5, PATIENCE, "five in the queue")
        assert len(queue) == 5
        message = queue.get(block=True, timeout=PATIENCE)
        assert message.payload == {"hello": 0}
        message.ack()
        message = queue.get(timeout=PATIENCE)
        message.requeue()
        numbers = []
        while len(numbers) < 4:
            message = queue.get(timeout=PATIENCE)
            numbers.append(message.payload["hello"])
            message.ack()
        assert sorted(numbers) == [1, 2, 3, 4]
    with bench.kombu().SimpleBuffer("simple_buffer") as buffer:
        buffer.put("not for long", serializer="pickle")
        with pytest.raises(buffer.Empty):
            bench.kombu().SimpleQueue("nothing").get(timeout=0.05)


def test_messages_by_iteration_and_by_an_event_loop(bench: Bench) -> None:
    connection = bench.kombu()
    channel, queue = connection.channel(), Queue("iterated", Exchange("iterated", "fanout"))
    producer = connection.Producer(exchange=queue.exchange)
    queue(channel).declare()
    options: dict[str, Any] = {"limit": 2, "timeout": PATIENCE}

    def published(*numbers: int) -> list[int]:
        for number in numbers:
            producer.publish({"number": number})
        return list(numbers)

    sent = published(1, 2)
    assert [body["number"] for body, _ in itermessages(connection, channel, queue, no_ack=True, **options)] == sent
    sent = published(3, 4)
    consumer = connection.Consumer([queue], no_ack=True, channel=channel)
    assert [body["number"] for body, _ in drain_consumer(consumer, **options)] == sent
    sent, found = published(5, 6), list[int]()
    with connection.Consumer([queue], callbacks=[lambda body, _: found.append(body["number"])], no_ack=True):
        for _ in eventloop(connection, limit=100, timeout=0.2, ignore_timeouts=True):
            if len(found) == 2:
                break
    assert found == sent


def test_queues_and_exchanges_by_their_methods(bench: Bench) -> None:
    channel = bench.kombu().channel()
    logs = Exchange("logs", "topic", durable=True)
    errors = Queue("errors", logs, routing_key="*.error", durable=True)(channel)
    maybe_declare(errors, channel)
    errors.declare()
    assert errors.queue_declare(passive=True).queue == "errors"
    bound = logs(channel)
    bound.publish(bound.Message("bad", content_type="text/plain", headers={"a": [1, {"b": None}]}), "web.error")
    bound.publish("fine", "web.info")
    message = got(errors)
    assert (message.body, message.headers) == ("bad", {"a": [1, {"b": None}]})
    message.reject(requeue=True)
    message = got(errors)
    assert message.delivery_info["redelivered"]
    message.ack()
    assert errors.get() is None
    bound.publish("bad", "web.error")
    wait_until(lambda: errors.queue_declare(passive=True).message_count == 1, PATIENCE, "one")
    assert errors.purge() == 1
    errors.unbind_from(logs, "*.error")
    bound.publish("nowhere", "web.error")
    assert errors.get() is None
    errors.delete(if_unused=True, if_empty=True)
    with pytest.raises(NotFound):
        errors.queue_declare(passive=True)


def test_acknowledging_several_recovering_and_limits(bench: Bench) -> None:
    connection = bench.kombu()
    channel, queue = connection.channel(), Queue("several")
    queue(channel).declare()
    for number in range(10):
        connection.Producer(channel).publish({"number": number}, routing_key="several")
    taken: list[kombu.Message] = []
    consumer = Consumer(channel, [queue], on_message=taken.append, prefetch_count=4)
    drained(connection, consumer, lambda: len(taken) == 4)
    taken[1].ack(multiple=True)
    drained(connection, consumer, lambda: len(taken) == 6)
    assert [message.payload["number"] for message in taken] == list(range(6))
    consumer.cancel()
    consumer.recover(requeue=True)
    again: list[int] = []

    def keep(body: Any, message: kombu.Message) -> None:
        again.append(body["number"])
        message.ack()

    drained(connection, Consumer(channel, [queue], callbacks=[keep]), lambda: len(again) == 8)
    assert sorted(again) == list(range(2, 10))


def drained(connection: kombu.Connection, consumer: Any, enough: Callable[[], bool]) -> None:
    """Drains events until there was enough."""

    def step() -> bool:
        try:
            connection.drain_events(timeout=0.2)
        except TimeoutError:
            pass
        return enough()

    consumer.consume()
    wait_until(step, PATIENCE, "enough messages")


def test_what_reaches_no_queue_comes_back_if_that_is_asked_for(bench: Bench) -> None:
    connection = bench.kombu()
    returned: list[Any] = []
    producer = connection.Producer(on_return=lambda *reason: returned.append(reason))
    producer.publish("lost", exchange="", routing_key="nobody", mandatory=True)

    def told() -> bool:
        if not returned:
            try:
                connection.drain_events(timeout=0.2)
            except TimeoutError:
                pass
        return bool(returned)

    wait_until(told, PATIENCE, "the message back")


def test_connections_of_several_threads(bench: Bench) -> None:
    Queue("shared")(bench.kombu().channel()).declare()
    begun = threading.Barrier(4)

    def publish(thread: int) -> None:
        with kombu.Connection(bench.url, **transport(bench)) as connection:
            producer = connection.Producer()
            begun.wait(PATIENCE)
            for number in range(50):
                producer.publish({"n": thread * 50 + number}, routing_key="shared")

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    numbers: list[int] = []
    connection = bench.kombu()
    consumer = connection.Consumer(
        [Queue("shared")], callbacks=[lambda body, _: numbers.append(body["n"])], no_ack=True
    )
    drained(connection, consumer, lambda: len(numbers) == 200)
    assert sorted(numbers) == list(range(200))


def transport(bench: Bench) -> dict[str, Any]:
    name = {"filesystem": "FilesystemTransport", "memory": "MemoryTransport"}.get(bench.scheme)
    return {"transport": f"busworker.transports:{name}"} if name else {}


def test_a_connection_in_kombus_event_loop(bench: Bench) -> None:
    connection, other = bench.kombu(), bench.kombu()
    queue, taken = Queue("looped"), list[kombu.Message]()
    consumer = connection.Consumer([queue], on_message=taken.append, prefetch_count=2)
    hub = Hub()
    connection.register_with_event_loop(hub)
    consumer.consume()

    def turned(enough: Callable[[], bool]) -> None:
        wait_until(lambda: hub.run_once() or enough(), PATIENCE, "messages from the loop")

    for number in range(5):
        other.Producer().publish({"n": number}, routing_key="looped")
    turned(lambda: len(taken) == 2)
    for count in (3, 4, 5):
        taken[count - 3].ack()  # makes room for one more
        turned(lambda count=count: len(taken) == count)
    for message in taken[-2:]:
        message.ack()
    assert [message.payload["n"] for message in taken] == list(range(5))
    connection.transport.unregister_from_event_loop(connection.connection, hub)
    hub.close()
