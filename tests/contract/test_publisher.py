"""What a publisher promises by its receipts, on every transport."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import kombu
import pytest

from busworker import Bus, Topic
from busworker.broker.session import Session
from busworker.broker.topology import EXCHANGE, UNROUTED
from busworker.errors import EncodeError, PublishFailed
from busworker.message import own_headers_removed, read_envelope
from busworker.payload import MAX_BODY
from busworker.receipt import Receipt
from tests.contract.bench import PATIENCE, Bench, event, fetched, ids, queued, wait_ready
from tests.support import Home, wait_until
from tests.support.proxy import Proxy


@dataclass(frozen=True)
class UserRegistered:
    user_id: int
    email: str


@dataclass(frozen=True)
class UserRemoved:
    user_id: int
    email: str


registered = Topic("user.registered", UserRegistered)
EVENT = UserRegistered(42, "a@example.org")
BODY = b'{"user_id":42,"email":"a@example.org"}'
UNREACHABLE = "amqp://127.0.0.1:1"
FORKING = """
import os, sys
from busworker import Bus, Topic
topic = Topic("user.registered", int)
bus = Bus("signup", broker=sys.argv[1], publish_deadline=60)
bus.publish(topic, 1, id="before").wait()
child = os.fork()
if child == 0:
    bus.publish(topic, 2, id="child").wait()
    bus.close()
    os._exit(7)
bus.publish(topic, 3, id="parent").wait()
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), flush=True)
"""
PENDING = """
import os
from busworker import Bus, PublishFailed, Topic
bus = Bus("signup", broker="amqp://127.0.0.1:1", publish_deadline=1)
receipt = bus.publish(Topic("user.registered", int), 1)
child = os.fork()
if child == 0:
    try:
        receipt.wait(30)
    except PublishFailed:
        os._exit(7 if receipt.state == "unknown" else 8)
    os._exit(9)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), flush=True)
"""
MIDST = """
import os, sys
from busworker import Bus, Topic
topic = Topic("user.registered", int)
bus = Bus("signup", broker=sys.argv[1], publish_deadline=30)
bus.publish(topic, 0).wait()
ends = []
for _ in range(8):
    receipts = [bus.publish(topic, number) for number in range(300)]
    child = os.fork()  # the publisher's thread is writing
    if child == 0:
        bus.publish(topic, 2).wait()
        os._exit(7)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    for receipt in receipts:
        receipt.wait()
print(ends, flush=True)
"""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker is the one that the test names."""
    monkeypatch.delenv("BUSWORKER_BROKER", raising=False)


@pytest.fixture
def bus(bench: Bench) -> Bus:
    """A service on the bus of the test."""
    return bench.bus()


@pytest.fixture
def cut_off() -> Iterator[Bus]:
    """A service whose broker can't be reached."""
    bus = Bus("signup", broker=UNREACHABLE, publish_deadline=1.0)
    yield bus
    bus.close()


# Confirmed


def test_a_confirmed_message_is_in_its_queue(bus: Bus, session: Session, work: str) -> None:
    receipt = bus.publish(registered, EVENT)
    assert receipt.wait(PATIENCE) is receipt
    assert (receipt.state, receipt.error) == ("confirmed", None)
    (delivery,) = queued(session, work, 1)
    assert (delivery.properties["message_id"], delivery.body) == (receipt.id, BODY)


def test_a_receipt_can_be_awaited(bus: Bus, session: Session, work: str) -> None:
    async def main() -> list[Receipt]:
        receipts = [bus.publish(registered, EVENT) for _ in range(20)]
        return [await receipt for receipt in receipts] + [await receipts[0]]

    receipts = asyncio.run(main())
    assert {receipt.state for receipt in receipts} == {"confirmed"}
    assert ids(queued(session, work, 20)) == [receipt.id for receipt in receipts[:20]]


def test_what_is_published_without_subscribers_is_confirmed_and_kept_as_unrouted(bus: Bus, session: Session) -> None:
    receipt = bus.publish(registered, EVENT).wait(PATIENCE)
    assert ids(queued(session, UNROUTED, 1)) == [receipt.id]


def test_ids_headers_and_correlation_id_are_kept(bus: Bus, session: Session, work: str) -> None:
    headers: dict[str, Any] = {"tenant": "ä", "n": -1, "big": 2**40, "f": 0.5, "yes": True, "nothing": None}
    headers |= {"list": ["a", 1], "table": {"inner": {"deep": "x"}}}
    receipt = bus.publish(registered, EVENT, id="order-7", headers=headers, correlation_id="request-1")
    assert receipt.wait(PATIENCE).id == "order-7"
    (delivery,) = queued(session, work, 1)
    assert own_headers_removed(delivery.headers) == headers  # a quorum queue adds one of its own
    assert {name: delivery.properties[name] for name in ("message_id", "correlation_id")} == {
        "message_id": "order-7",
        "correlation_id": "request-1",
    }
    assert delivery.routing_key == "user.registered"
    assert delivery.properties["delivery_mode"] == 2


def test_a_foreign_subscriber_gets_the_wire_format(bench: Bench, bus: Bus) -> None:
    exchange = kombu.Exchange(EXCHANGE, "topic", passive=True)
    bench.session()
    got: list[kombu.Message] = []
    before = int(time.time())
    with bench.kombu() as connection:
        queue = kombu.Queue("audit", exchange, "user.#", durable=True, channel=connection)
        queue.declare()
        receipt = bus.publish(registered, EVENT, correlation_id="c").wait(PATIENCE)
        with kombu.Consumer(connection, [queue], on_message=got.append):
            wait_until(lambda: _drained(connection, got), PATIENCE, "the message")
        (message,) = got
        message.ack()
    assert message.body in (BODY, BODY.decode())
    assert json.loads(message.body) == {"user_id": 42, "email": "a@example.org"}
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
    assert message.headers == {}
    properties = message.properties
    assert {name: properties[name] for name in ("message_id", "type", "app_id", "correlation_id", "delivery_mode")} == {
        "message_id": receipt.id,
        "type": "user.registered",
        "app_id": "signup",
        "correlation_id": "c",
        "delivery_mode": 2,
    }
    sent = properties["timestamp"]
    assert before <= (sent if isinstance(sent, int) else _utc(sent)) <= time.time()


def test_a_burst_from_eight_threads_is_stored_whole_and_in_the_order_of_each(
    bench: Bench, bus: Bus, session: Session, work: str
) -> None:
    def publish(thread: int) -> None:
        for number in range(100):
            bus.publish(registered, EVENT, id=f"{thread}-{number}")

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bus.flush(PATIENCE)
    found = [str(name) for name in ids(fetched(bench.consumer(work, window=800), 800, window=800))]
    for thread in range(8):
        assert [name for name in found if name.startswith(f"{thread}-")] == [f"{thread}-{n}" for n in range(100)]


def test_flush_returns_when_everything_is_confirmed(bus: Bus, session: Session, work: str) -> None:
    receipts = [bus.publish(registered, EVENT) for _ in range(1200)]
    bus.flush(PATIENCE)
    assert {receipt.state for receipt in receipts} == {"confirmed"}
    wait_ready(session, work, 1200)


def test_close_flushes_and_publishing_again_opens_anew(bus: Bus, session: Session, work: str) -> None:
    first = [bus.publish(registered, EVENT) for _ in range(10)]
    bus.close()
    assert {receipt.state for receipt in first} == {"confirmed"}
    bus.close()
    assert bus.publish(registered, EVENT).wait(PATIENCE).state == "confirmed"
    wait_ready(session, work, 11)


def test_after_a_fork_the_child_publishes_by_itself(bench: Bench, session: Session, work: str) -> None:
    process = bench.start(FORKING)
    assert process.stdout is not None
    assert process.stdout.readline() == "7\n"
    assert process.wait(PATIENCE) == 0
    assert sorted(map(str, ids(queued(session, work, 3)))) == ["before", "child", "parent"]


def test_a_fork_in_the_midst_of_publishing_hurts_neither_side(bench: Bench) -> None:
    process = bench.start(MIDST)
    assert process.stdout is not None
    assert process.stdout.readline() == f"{[7] * 8}\n"
    assert process.wait(PATIENCE) == 0


def test_after_a_fork_what_was_pending_is_unknown_to_the_child() -> None:
    done = subprocess.run([sys.executable, "-c", PENDING], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "7\n"


# Refused


def test_an_event_of_another_type_is_refused_at_once(bus: Bus, session: Session, work: str) -> None:
    with pytest.raises(EncodeError, match="UserRegistered, not UserRemoved"):
        bus.publish(registered, UserRemoved(42, "a@example.org"))  # type: ignore[arg-type]
    with pytest.raises(EncodeError, match="fit"):
        bus.publish(registered, UserRegistered("42", "a@example.org"))  # type: ignore[arg-type]
    bus.publish(registered, EVENT, id="good").wait(PATIENCE)
    assert ids(queued(session, work, 1)) == ["good"]


def test_a_body_over_the_limit_is_refused_at_once_and_the_largest_is_stored(
    bench: Bench, bus: Bus, session: Session
) -> None:
    text = Topic("text", str)
    work = session.declare_work("text", "email", "welcome")
    with pytest.raises(EncodeError, match="16 MiB"):
        bus.publish(text, "x" * (MAX_BODY - 1))
    bus.publish(text, "x" * (MAX_BODY - 2)).wait(PATIENCE)
    (delivery,) = fetched(bench.consumer(work), 1)
    assert len(delivery.body) == MAX_BODY


# Late


def test_a_delayed_message_is_routed_when_it_is_due_by_the_subscriptions_of_then(engine: Bench) -> None:
    bus, session = engine.bus(), engine.session()
    published = time.monotonic()
    receipt = bus.publish(registered, EVENT, delay=0.7).wait(PATIENCE)
    now = bus.publish(registered, EVENT).wait(PATIENCE)
    work = session.declare_work("user.registered", "email", "welcome")
    consumer = engine.consumer(work)
    (delivery,) = fetched(consumer, 1)
    assert time.monotonic() - published >= 0.69  # the store counts in milliseconds
    assert (delivery.properties["message_id"], delivery.body) == (receipt.id, BODY)
    assert "expiration" not in delivery.properties
    assert ids(queued(session, UNROUTED, 1)) == [now.id]


def test_delays_are_not_rounded_and_the_shorter_comes_first(engine: Bench) -> None:
    bus, session = engine.bus(), engine.session()
    work = session.declare_work("user.registered", "email", "welcome")
    for delay in (60, 0.4, 0.1, 0):
        bus.publish(registered, EVENT, id=f"after {delay}", delay=delay)
    bus.flush(PATIENCE)
    assert ids(fetched(engine.consumer(work), 3)) == ["after 0", "after 0.1", "after 0.4"]


def test_a_delay_of_seconds_holds_on_every_transport(bench: Bench) -> None:
    bus, session = bench.bus(), bench.session()
    near = session.declare_work("registered", "email", "welcome")  # the end of the topic, and not meant
    published = time.monotonic()
    receipt = bus.publish(registered, EVENT, delay=1, headers={"mine": 1}, id="late").wait(PATIENCE)
    works = [session.declare_work(topic, "email", "welcome") for topic in ("user.registered", "user.*", "#")]
    for work in works:
        (delivery,) = fetched(bench.consumer(work), 1)
        assert (delivery.properties["message_id"], delivery.body) == (receipt.id, BODY)
        assert (read_envelope(delivery).topic, delivery.headers["mine"]) == ("user.registered", 1)
    assert 0.99 <= time.monotonic() - published < 2.9, "within a second"
    wait_ready(session, near, 0)


def test_what_is_due_and_nobody_subscribes_to_is_unrouted(amqp_url: str, home: Home) -> None:
    with Bench(amqp_url, home) as bench:  # on the engine somebody has to look for it
        receipt = bench.bus().publish(registered, EVENT, delay=1).wait(PATIENCE)
        (unrouted,) = queued(bench.session(), UNROUTED, 1)
    assert (unrouted.properties["message_id"], read_envelope(unrouted).topic) == (receipt.id, "user.registered")


# Failed


def test_publishing_to_an_unreachable_broker_fails_at_the_deadline(cut_off: Bus) -> None:
    began = time.monotonic()
    receipt = cut_off.publish(registered, EVENT)
    assert time.monotonic() - began < 0.9
    with pytest.raises(TimeoutError, match=receipt.id):
        receipt.wait(0.01)
    assert receipt.state == "pending"
    with pytest.raises(PublishFailed, match=r"127\.0\.0\.1"):
        receipt.wait()
    assert 1.0 <= time.monotonic() - began < 1.7
    assert receipt.state == "failed"
    assert isinstance(receipt.error, Exception)


def test_awaiting_a_receipt_that_fails_raises(cut_off: Bus) -> None:
    async def main() -> None:
        receipt = cut_off.publish(registered, EVENT)
        with pytest.raises(PublishFailed):
            await asyncio.wait_for(_awaited(receipt), PATIENCE)

    asyncio.run(main())


def test_close_and_flush_end_with_the_deadline_if_the_broker_is_unreachable(cut_off: Bus) -> None:
    receipts = [cut_off.publish(registered, EVENT) for _ in range(1200)]
    with pytest.raises(TimeoutError, match="1200 messages"):
        cut_off.flush(0.01)
    began = time.monotonic()
    cut_off.close()
    assert time.monotonic() - began < 3.0
    assert {receipt.state for receipt in receipts} == {"failed"}


def test_a_broker_that_never_answers_fails_the_receipt_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bus = Bus("signup", broker=f"amqp://127.0.0.1:{silent.getsockname()[1]}", publish_deadline=1.0)
        began = time.monotonic()
        receipts = [bus.publish(registered, EVENT) for _ in range(1200)]
        with pytest.raises(PublishFailed):
            receipts[-1].wait(PATIENCE)
        assert time.monotonic() - began < 3.0
        bus.close()
    assert {receipt.state for receipt in receipts} == {"failed"}


def test_what_was_published_while_the_store_was_unusable_is_stored_once_it_is_usable(home: Home) -> None:
    obstacle = home.path / "bus"
    obstacle.write_text("a file where the folder should be")
    with Bench(f"filesystem://{obstacle}", home) as bench:
        receipt = bench.bus().publish(registered, EVENT)
        with pytest.raises(TimeoutError):
            receipt.wait(0.2)
        obstacle.unlink()
        receipt.wait(PATIENCE)
        assert ids(queued(bench.session(), UNROUTED, 1)) == [receipt.id]


def test_a_broker_that_falls_silent_leaves_the_receipt_unknown(amqp_url: str) -> None:
    with Proxy(amqp_url) as proxy:
        bus = Bus("signup", broker=proxy.url, publish_deadline=3.0)
        bus.publish(registered, EVENT).wait(PATIENCE)
        proxy.freeze()
        receipt = bus.publish(registered, EVENT)
        with pytest.raises(PublishFailed):
            receipt.wait(PATIENCE)
        assert receipt.state == "unknown"
        began = time.monotonic()
        bus.close()
        assert time.monotonic() - began < 5.0


# A full buffer


def test_a_full_buffer_blocks_a_thread_at_most_for_the_deadline(cut_off: Bus) -> None:
    receipts: list[Receipt] = []
    blocked: list[float] = []
    while not blocked or blocked[-1] < 0.3:
        began = time.monotonic()
        receipts.append(_large(cut_off))
        blocked.append(time.monotonic() - began)
        assert len(receipts) <= 10, "64 MiB of bodies fit, not any number"
    assert blocked[-1] < 1.9
    cut_off.flush(PATIENCE)
    assert {receipt.state for receipt in receipts} == {"failed"}


def test_a_full_buffer_fails_the_receipt_at_once_in_an_event_loop(cut_off: Bus) -> None:
    async def main() -> None:
        receipts: list[Receipt] = []
        while not receipts or receipts[-1].state == "pending":
            receipts.append(_large(cut_off))
        with pytest.raises(PublishFailed, match="buffer is full"):
            await receipts[-1]
        assert 4 <= len(receipts) <= 10
        assert {receipt.state for receipt in receipts[:-1]} == {"pending"}

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 0.9


def _large(bus: Bus) -> Receipt:
    return bus.publish_body("large", LARGE)


LARGE = b"x" * MAX_BODY


async def _awaited(receipt: Receipt) -> Receipt:
    return await receipt


def _drained(connection: kombu.Connection, got: list[kombu.Message]) -> bool:
    try:
        connection.drain_events(timeout=0.1)
    except TimeoutError:
        pass
    return bool(got)


def _utc(moment: datetime) -> float:
    return float(moment.replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize("folder", ["/proc", "/proc/busworker", "/proc/busworker/bus", "/dev/null/bus", "/x" * 3000])
def test_a_store_that_can_never_be_made_is_not_waited_for(folder: str) -> None:
    bus = Bus("signup", broker=f"filesystem://{folder}", publish_deadline=60)
    receipt = bus.publish(registered, EVENT)
    with pytest.raises(PublishFailed, match="can't be"):
        receipt.wait(20)
    assert receipt.state == "failed"
    bus.close()


def test_a_store_that_was_reached_is_waited_for_whatever_its_folder_says(home: Home) -> None:
    bus = Bus("signup", broker=f"filesystem://{home.path}/buses/one", publish_deadline=60)
    bus.publish(registered, EVENT).wait()
    shutil.rmtree(home.path / "buses")
    blocking = home.write("buses", "a file where the folder was")
    receipt = bus.publish(registered, EVENT)
    with pytest.raises(TimeoutError):
        receipt.wait(0.5)
    blocking.unlink()
    assert receipt.wait(30).state == "confirmed"
    bus.close()


# Once


def test_an_id_that_was_given_before_is_stored_once_and_the_receipt_says_so(engine: Bench) -> None:
    bus, session = engine.bus(), engine.session()
    work = session.declare_work("user.registered", "email", "welcome")
    first, again = (bus.publish(registered, EVENT, id="order-7") for _ in range(2))
    other_bus = engine.bus().publish(registered, EVENT, id="order-7")
    other_topic = bus.publish(Topic("user.removed", UserRemoved), UserRemoved(1, "a"), id="order-7")
    one, two = (bus.publish(registered, EVENT) for _ in range(2))
    receipts = [first, again, other_bus, other_topic, one, two]
    assert [receipt.wait(PATIENCE).duplicate for receipt in receipts][:3].count(False) == 1
    assert [receipt.duplicate for receipt in receipts[3:]] == [False, False, False]
    assert sorted(map(str, ids(queued(session, work, 3)))) == sorted(["order-7", one.id, two.id])


def test_what_is_stored_once_is_remembered_for_an_hour_and_a_million(
    engine: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("busworker.transports.engine.transaction.MOST_ONCE", 3)
    session = engine.session()
    work = session.declare_work("user.registered", "email", "welcome")

    def stored(id: str) -> bool:
        one = event(message_id=id)
        one.once = True
        return session.publish([one]) == [None]

    assert [stored(id) for id in ("a", "b", "a", "c", "d", "e")] == [True, True, False, True, True, True]
    assert stored("a"), "three are remembered"
    monkeypatch.setattr("busworker.transports.engine.transaction.ONCE_FOR_MS", -1)
    assert stored("e"), "its time is over"
    wait_ready(session, work, 7)


# Closing


def test_publishing_while_another_thread_closes_loses_nothing(engine: Bench) -> None:
    bus, session = engine.bus(), engine.session()
    work = session.declare_work("user.registered", "email", "welcome")
    ended = threading.Event()

    def close_again_and_again() -> None:
        while not ended.is_set():
            if bus._port is not None:
                bus._port.close()

    closing = threading.Thread(target=close_again_and_again)
    closing.start()
    try:
        states = {bus.publish(registered, EVENT).wait(PATIENCE).state for _ in range(100)}
    finally:
        ended.set()
        closing.join(PATIENCE)
    assert states == {"confirmed"}
    assert len(queued(session, work, 100)) == 100
