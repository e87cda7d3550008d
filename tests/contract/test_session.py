"""A session keeps its promises on every transport: it declares, fetches, settles and lets look."""

import os
import socket

import pytest

from busworker.broker import publishing
from busworker.broker.session import Counts, Session, Settled
from busworker.broker.topology import UNROUTED
from busworker.errors import BrokerUnavailable
from busworker.message import Outgoing
from tests.contract.bench import Bench, ack, event, events, fetched, ids, queued, wait_ready
from tests.support import Home, wait_until
from tests.support.rabbitmq import Node

FULL = {"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"}
HOLDER = """
import select, sys
from busworker.broker.session import open_session
session = open_session(sys.argv[1])
session.consume(sys.argv[2], 100)
held = []
while len(held) < int(sys.argv[3]):
    select.select(session.filenos(), [], [], session.next_due())
    held += session.fetch(100)
print(len(held), flush=True)
sys.stdin.read()
"""


# Declaring


def test_declaring_again_changes_nothing_for_any_session(bench: Bench, session: Session, work: str) -> None:
    session.declare_retry(1)
    session.publish([event()])
    for other in (session, bench.session()):
        other.declare()
        assert other.declare_work("user.registered", "email", "welcome") == work
        other.declare_retry(1)
    assert len(queued(session, work, 1)) == 1


def test_a_subscription_holds_for_publishers_that_were_there_before(bench: Bench) -> None:
    publisher, subscriber = bench.session(), bench.session()
    publisher.publish([event(message_id="early")])
    queue = subscriber.declare_work("user.registered", "email", "welcome")
    publisher.publish([event(message_id="late")])
    assert ids(queued(publisher, queue, 1)) == ["late"]
    assert ids(queued(publisher, UNROUTED, 1)) == ["early"]


# Routing


def test_a_message_reaches_every_queue_whose_topic_or_pattern_matches(session: Session) -> None:
    topics = ("user.registered", "user.*", "*.registered", "user.#", "#", "user.registered.#")
    others = ("user", "user.removed", "*", "user.*.*", "#.removed")
    reached = [session.declare_work(topic, "email", "welcome") for topic in topics]
    left_out = [session.declare_work(topic, "email", "welcome") for topic in others]
    session.publish([event("user.registered", message_id="one")])
    for queue in reached:
        assert ids(queued(session, queue, 1)) == ["one"], queue
    for queue in left_out:
        wait_ready(session, queue, 0)


def test_overlapping_subscriptions_of_channels_and_services_each_get_a_copy(session: Session) -> None:
    names = [("email", "welcome"), ("email", "audit"), ("crm", "welcome")]
    queues = [session.declare_work("user.registered", *name) for name in names]
    session.publish(events(3))
    assert [ids(queued(session, queue, 3)) for queue in queues] == [["m0", "m1", "m2"]] * 3
    wait_ready(session, UNROUTED, 0)


def test_a_hash_takes_any_number_of_words_and_a_star_exactly_one(session: Session) -> None:
    star, hash_ = (session.declare_work(topic, "email", "welcome") for topic in ("a.*", "a.#"))
    session.publish([event(topic, message_id=topic) for topic in ("a", "a.b", "a.b.c")])
    assert ids(queued(session, star, 1)) == ["a.b"]
    assert ids(queued(session, hash_, 3)) == ["a", "a.b", "a.b.c"]


def test_what_nobody_subscribes_to_is_kept_as_unrouted(session: Session, work: str) -> None:
    session.publish([event("nobody.listens", b"[1]", message_id="lonely")])
    (kept,) = queued(session, UNROUTED, 1)
    assert (kept.properties["message_id"], kept.routing_key, kept.body) == ("lonely", "nobody.listens", b"[1]")
    wait_ready(session, work, 0)


# Fetching


def test_at_most_a_window_of_messages_is_unsettled(bench: Bench, session: Session, work: str) -> None:
    session.publish(events(10))
    consumer = bench.consumer(work, window=3)
    held = fetched(consumer, 3, window=3)
    wait_ready(session, work, 7)
    assert consumer.fetch(3) == []
    consumer.settle([ack(held[0]), ack(held[2])])
    more = fetched(consumer, 2, window=3)
    wait_ready(session, work, 5)
    assert ids(held + more) == ["m0", "m1", "m2", "m3", "m4"]


def test_messages_come_in_the_order_of_publishing_and_once(bench: Bench, session: Session, work: str) -> None:
    session.publish(events(50))
    found = fetched(bench.consumer(work), 50)
    assert ids(found) == [f"m{number}" for number in range(50)]
    assert {delivery.redelivered for delivery in found} == {False}
    assert {delivery.queue for delivery in found} == {work}
    assert len({delivery.tag for delivery in found}) == 50


def test_a_settled_message_is_gone(bench: Bench, session: Session, work: str) -> None:
    session.publish(events(2))
    consumer = bench.consumer(work)
    consumer.settle([ack(delivery) for delivery in fetched(consumer, 2)])
    consumer.close()
    assert wait_ready(session, work, 0).in_flight in (0, None)
    assert bench.consumer(work).fetch(100) == []


def test_what_a_closed_session_held_comes_back_marked_as_redelivered(bench: Bench, session: Session, work: str) -> None:
    session.publish(events(3))
    consumer = bench.consumer(work)
    held = fetched(consumer, 3)
    consumer.settle([ack(held[1])])
    consumer.close()
    wait_ready(session, work, 2)
    back = fetched(bench.consumer(work), 2)
    assert [(delivery.properties["message_id"], delivery.redelivered) for delivery in back] == [
        ("m0", True),
        ("m2", True),
    ]


def test_what_a_killed_process_held_comes_back_marked_as_redelivered(bench: Bench, session: Session, work: str) -> None:
    session.publish(events(3))
    holder = bench.start(HOLDER, work, "3")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "3\n"
    wait_ready(session, work, 0)
    holder.kill()
    holder.wait()
    back = fetched(bench.consumer(work), 3)
    assert sorted(map(str, ids(back))) == ["m0", "m1", "m2"]
    assert {delivery.redelivered for delivery in back} == {True}


def test_a_session_that_waits_gets_what_a_killed_process_held(bench: Bench, session: Session, work: str) -> None:
    session.publish(events(1))
    holder = bench.start(HOLDER, work, "1")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "1\n"
    consumer = bench.consumer(work)
    assert consumer.fetch(100) == []
    holder.kill()
    assert fetched(consumer, 1)[0].redelivered


def test_a_session_of_two_subscriptions_gets_the_messages_of_both(bench: Bench, session: Session, work: str) -> None:
    other = session.declare_work("user.removed", "email", "welcome")
    session.publish([event("user.removed", message_id="removed"), event("user.registered", message_id="registered")])
    found = fetched(bench.consumer(work, other), 2)
    assert {delivery.queue: delivery.properties["message_id"] for delivery in found} == {
        work: "registered",
        other: "removed",
    }


# Settling


def test_a_message_that_is_given_back_is_fetched_again_unchanged(bench: Bench, session: Session, work: str) -> None:
    session.publish([event(body=b"[1]", message_id="back")])
    consumer = bench.consumer(work)
    (first,) = fetched(consumer, 1)
    consumer.settle([Settled(first.tag, "return")])
    (again,) = fetched(consumer, 1)
    assert (again.properties, again.body, again.redelivered) == (first.properties, b"[1]", True)
    assert "x-busworker-attempt" not in again.headers
    consumer.settle([ack(again)])
    consumer.close()
    wait_ready(session, work, 0)


def test_what_a_settlement_publishes_is_stored(bench: Bench, session: Session, work: str) -> None:
    other = session.declare_work("mail.sent", "email", "welcome")
    session.publish([event()])
    consumer = bench.consumer(work)
    (delivery,) = fetched(consumer, 1)
    consumer.settle([ack(delivery, event("mail.sent", b"[1]"), event("mail.sent", b"[2]"))])
    assert [copy.body for copy in queued(session, other, 2)] == [b"[1]", b"[2]"]
    consumer.close()
    wait_ready(session, work, 0)


def test_a_message_is_not_acknowledged_if_what_it_publishes_can_not_be_stored(
    bench: Bench, session: Session, work: str
) -> None:
    session.publish([event(message_id="kept")])
    consumer = bench.consumer(work)
    (delivery,) = fetched(consumer, 1)
    with pytest.raises(BrokerUnavailable, match="no queue"):
        consumer.settle([ack(delivery, Outgoing("", "no.such.queue", b"{}", {}, {}))])
    consumer.close()
    wait_ready(session, work, 1)
    assert ids(fetched(bench.consumer(work), 1)) == ["kept"]


def test_what_is_stored_is_not_sent_again_with_what_the_broker_refuses(amqp_url: str, home: Home) -> None:
    with Bench(amqp_url, home) as bench:
        session = bench.session()
        work = session.declare_work("user.registered", "email", "welcome")
        other = session.declare_work("mail.sent", "email", "welcome")
        full = bench.kombu().channel()
        full.queue_declare("full", durable=True, auto_delete=False, arguments=FULL)
        session.publish([*events(1), Outgoing("", "full", b"{}", {"delivery_mode": 2}, {})])
        consumer = bench.consumer(work)
        (delivery,) = fetched(consumer, 1)
        consumer.submit([ack(delivery, event("mail.sent"), Outgoing("", "full", b"{}", {"delivery_mode": 2}, {}))])
        tried = Tries(consumer)
        wait_until(lambda: tried.turn() >= 3, 20.0, "three refusals")
        wait_ready(session, other, 1)
        full.queue_delete("full")
        full.queue_declare("full", durable=True, auto_delete=False)
        wait_until(lambda: consumer.concluded() == [delivery.tag], 20.0, "it is settled")
        assert consumer.trouble is None
        wait_ready(session, other, 1)


def test_what_the_other_connection_confirms_after_the_fetching_one_is_lost_is_stored(amqp_url: str, home: Home) -> None:
    with Bench(amqp_url, home) as bench:
        session = bench.session()
        work = session.declare_work("user.registered", "email", "welcome")
        other = session.declare_work("mail.sent", "email", "welcome")
        session.publish(events(1))
        consumer = bench.consumer(work)
        (delivery,) = fetched(consumer, 1)
        fetching, _ = consumer.filenos()
        consumer.submit([ack(delivery, event("mail.sent"))])
        with socket.socket(fileno=os.dup(fetching)) as connection:
            connection.shutdown(socket.SHUT_RDWR)
        with pytest.raises(BrokerUnavailable):
            consumer.fetch(1)
        assert consumer.stored() == [delivery.tag]
        wait_ready(session, other, 1)
        consumer.close()
        (again,) = fetched(bench.consumer(work), 1)
        assert again.redelivered


def test_a_queue_that_confirms_nothing_is_told_until_it_does(
    victim: Node, victim_url: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a quorum queue without a leader, which it may be after its broker was killed."""
    monkeypatch.setattr(publishing, "LATE", 0.3)
    queue = f"{{'{victim_url.rpartition('/')[2]}_busworker.retry.1', node()}}"
    with Bench(victim_url, home) as bench:
        session = bench.session()
        work = session.declare_work("user.registered", "email", "welcome")
        session.declare_retry(1)
        session.publish(events(1))
        consumer = bench.consumer(work)
        (delivery,) = fetched(consumer, 1)
        victim.ctl("eval", f"ra:stop_server(quorum_queues, {queue}).")
        consumer.submit([ack(delivery, Outgoing("busworker.retry.1", work, b"{}", {"delivery_mode": 2}, {}))])
        assert consumer.trouble is None
        wait_until(lambda: not consumer.concluded() and consumer.trouble, 10.0, "the trouble")
        assert "'busworker.retry.1'" in str(consumer.trouble)
        victim.ctl("eval", f"ra:restart_server(quorum_queues, {queue}), ra:trigger_election({queue}).")
        wait_until(lambda: consumer.concluded() == [delivery.tag], 20.0, "it is settled")
        assert consumer.trouble is None


class Tries:
    """Counts how often a session was refused something: each time it waits longer."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seen: set[float] = set()

    def turn(self) -> int:
        assert self._session.concluded() == []
        again_at = self._session._refused.again_at  # type: ignore[attr-defined]
        self._seen |= {again_at} - {float("inf")}
        return len(self._seen)


def test_settlements_and_what_they_publish_are_one_transaction(engine: Bench) -> None:
    session = engine.session()
    work = session.declare_work("user.registered", "email", "welcome")
    other = session.declare_work("mail.sent", "email", "welcome")
    session.publish(events(2))
    consumer = engine.consumer(work)
    first, second = fetched(consumer, 2)
    unstorable = Outgoing("", "no.such.queue", b"{}", {}, {})
    with pytest.raises(BrokerUnavailable):
        consumer.settle([ack(first, event("mail.sent")), ack(second, event("mail.sent"), unstorable)])
    assert (session.counts(work), session.counts(other)) == (Counts(0, 2), Counts(0, 0))
    consumer.settle([ack(first, event("mail.sent")), ack(second)])
    assert (session.counts(work), session.counts(other)) == (Counts(0, 0), Counts(1, 0))
