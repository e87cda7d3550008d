"""Listening to what is published beside those who subscribe to it, on every transport."""

import signal
from typing import Any

from busworker.broker import topology
from busworker.broker.session import Counts, Session, open_session
from tests.contract.bench import Bench, event, events, fetched, ids, queued, wait_ready
from tests.support import wait_until

LISTENER = """
import sys
from busworker.broker.session import open_session
session = open_session(sys.argv[1])
session.declare()
session.listen("#", 10)
print("listening", flush=True)
sys.stdin.read()
"""


def listener(bench: Bench, topic: str, window: int = 100) -> Session:
    session = bench.session()
    session.listen(topic, window)
    return session


def tails(session: Session) -> list[str]:
    return [name for name in session.queues() or [] if name.startswith(topology.TAIL)]


def test_who_listens_gets_what_is_published_from_then_on_and_takes_it_from_nobody(
    bench: Bench, session: Session, work: str
) -> None:
    session.publish(events(2))
    everything, some = listener(bench, "#"), listener(bench, "user.*")
    session.publish([event(message_id="a"), event("order.placed", message_id="b"), event(message_id="c", body=b"[1]")])
    assert ids(fetched(everything, 3)) == ["a", "b", "c"]
    second = fetched(some, 2)
    assert (ids(second), second[1].body, second[1].routing_key) == (["a", "c"], b"[1]", "user.registered")
    assert ids(queued(session, work, 4)) == ["m0", "m1", "a", "c"]


def test_what_was_delayed_is_heard_when_it_is_due(bench: Bench) -> None:
    bus = bench.bus()
    hearing = listener(bench, "user.registered")
    bus.publish_body("user.registered", b"{}", id="late", delay=0.1).wait(20)
    assert ids(fetched(hearing, 1)) == ["late"]


def test_only_so_much_is_kept_for_who_does_not_fetch(engine: Bench) -> None:
    session, slow = engine.session(), listener(engine, "#", window=1)
    session.publish(events(topology.TAIL_MOST + 10))
    (queue,) = tails(session)
    assert session.counts(queue) == Counts(topology.TAIL_MOST, 0)
    assert ids(fetched(slow, 1, window=1)) == ["m10"]
    assert slow.missed() == 10
    slow.close()
    assert tails(session) == []


def test_what_only_a_listener_gets_is_unrouted_on_the_engine(engine: Bench) -> None:
    session = engine.session()
    hearing = listener(engine, "#")
    session.publish([event(message_id="a")])
    assert ids(fetched(hearing, 1)) == ids(queued(session, topology.UNROUTED, 1)) == ["a"]
    assert session.routed("user.registered") is False
    session.declare_work("user.registered", "email", "welcome")
    assert session.routed("user.registered") is True


def test_a_killed_listener_leaves_nothing(engine: Bench) -> None:
    session = engine.session()
    process: Any = engine.start(LISTENER)
    assert process.stdout.readline() == "listening\n"
    assert len(tails(session)) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    engine.session()  # whoever opens the store clears up
    assert tails(session) == []


def test_a_queue_is_removed_with_its_messages_unless_somebody_consumes(
    bench: Bench, session: Session, work: str
) -> None:
    session.publish(events(3))
    wait_ready(session, work, 3)
    assert session.consumers(work) == 0
    consumer = bench.consumer(work, window=1)
    wait_until(lambda: session.consumers(work) == 1, 10, "the consumer")
    assert session.delete(work) is None
    consumer.close()
    wait_until(lambda: session.consumers(work) == 0, 10, "its end")
    wait_ready(session, work, 3)
    assert session.delete(work) == 3
    assert session.counts(work) is None
    assert session.delete(work) == session.consumers(work) == 0
    session.publish(events(1))
    assert ids(queued(session, topology.UNROUTED, 1)) == ["m0"]


def test_a_message_is_found_by_its_id_wherever_it_is(engine: Bench) -> None:
    session = engine.session()
    work = session.declare_work("user.registered", "email", "welcome")
    other = session.declare_work("#", "log", "all")
    session.publish([event(message_id="m1"), event(message_id="m11"), event(message_id="m1", body=b"[2]")])
    held = fetched(engine.consumer(other, window=1), 1, window=1)
    assert ids(held) == ["m1"]
    found = session.holding("m1") or []
    assert sorted((one.delivery.queue, one.delivery.body, one.held) for one in found) == [
        (other, b"[2]", False),
        (other, b"{}", True),
        (work, b"[2]", False),
        (work, b"{}", False),
    ]
    assert {one.due for one in found} == {None}
    assert session.holding("m") == []


def test_a_store_tells_what_was_published_with_an_id_lately(engine: Bench) -> None:
    session = engine.session()
    engine.bus().publish_body("user.registered", b"{}", id="mine").wait(20)
    assert session.stored_at("user.registered", "mine") is not None
    assert session.stored_at("user.removed", "mine") is None


def test_rabbitmq_tells_nothing_by_id(amqp_url: str) -> None:
    session = open_session(amqp_url)
    assert session.holding("m1") is session.stored_at("user.registered", "m1") is None
    session.close()
