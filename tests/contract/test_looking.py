"""Looking at queues without touching them, and taking named messages out, on every transport."""

import time
from contextlib import closing

import pytest

from busworker.broker.session import Counts, Session
from busworker.errors import BrokerUnavailable
from busworker.message import Delivery
from tests.contract.bench import FAILED, Bench, ack, end, event, events, fetched, ids, queued, wait_ready
from tests.support import Home
from tests.support.proxy import Proxy


def test_counts_tell_what_is_ready_and_what_is_held(bench: Bench, session: Session, work: str) -> None:
    assert session.counts(work) == Counts(0, 0 if bench.embedded else None)
    session.publish(events(5))
    wait_ready(session, work, 5)
    consumer = bench.consumer(work, window=2)
    held = fetched(consumer, 2, window=2)
    assert wait_ready(session, work, 3).in_flight == (2 if bench.embedded else None)
    consumer.close()
    assert wait_ready(session, work, 5).in_flight == (0 if bench.embedded else None)
    assert len(held) == 2


def test_a_queue_that_does_not_exist_has_no_counts_and_the_session_goes_on(session: Session, work: str) -> None:
    assert session.counts("busworker.no/such.queue") is None
    session.publish(events(1))
    wait_ready(session, work, 1)


def test_browsing_shows_content_and_order_and_leaves_the_queue_as_it_is(
    bench: Bench, session: Session, work: str
) -> None:
    session.publish([event(body=b"[%d]" % number, message_id=f"m{number}") for number in range(5)])
    for _ in range(3):
        found = queued(session, work, 5)
        assert [(delivery.properties["message_id"], delivery.body) for delivery in found] == [
            (f"m{number}", b"[%d]" % number) for number in range(5)
        ]
        assert {(delivery.queue, delivery.routing_key) for delivery in found} == {(work, "user.registered")}
    wait_ready(session, work, 5)
    assert ids(fetched(bench.consumer(work), 5)) == ids(events(5))


def test_what_was_browsed_can_be_fetched_again_at_once(session: Session, work: str) -> None:
    session.publish(events(5))
    wait_ready(session, work, 5)
    for _ in range(20):
        assert len(list(session.browse(work))) == 5


def test_browsing_can_end_early(session: Session, work: str) -> None:
    session.publish(events(5))
    wait_ready(session, work, 5)
    assert ids(list(session.browse(work, limit=2, newest_first=False))) == ["m0", "m1"]
    with closing(session.browse(work, newest_first=False)) as browsing:
        assert [next(browsing).properties["message_id"] for _ in range(2)] == ["m0", "m1"]
    assert ids(queued(session, work, 5)) == ids(events(5))


def test_looks_of_any_length_leave_order_and_content(session: Session, work: str) -> None:
    session.publish(events(300))
    wait_ready(session, work, 300)
    for limit in (5, 100, 7, 250, None, 1, 20, None, 300, 5):
        found = list(session.browse(work, limit=limit, newest_first=False))
        assert ids(found) == ids(events(300))[:limit]
    with closing(session.browse(work, newest_first=False)) as browsing:
        assert next(browsing).properties["message_id"] == "m0"
    assert ids(queued(session, work, 300)) == ids(events(300))


def test_taking_some_of_many_after_looks_leaves_the_order_of_the_rest(session: Session, work: str) -> None:
    session.publish(events(300))
    wait_ready(session, work, 300)
    list(session.browse(work, limit=40, newest_first=False))
    for held in session.take(work, lambda delivery: delivery.properties["message_id"] in ("m20", "m200"), None, 1):
        session.settle([ack(delivery) for delivery in held])
    with closing(session.take(work, any_, None, 10)) as taken:
        session.settle([ack(delivery) for delivery in next(taken)])
    assert ids(queued(session, work, 288)) == [f"m{number}" for number in range(10, 300) if number not in (20, 200)]


def test_who_looks_at_a_queue_on_amqp_is_alone(amqp_url: str, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busworker.broker.browsing.PATIENCE", 0.2)
    with Bench(amqp_url, home) as bench:
        first, second = bench.session(), bench.session()
        work = first.declare_work("user.registered", "email", "welcome")
        first.publish(events(3))
        wait_ready(first, work, 3)
        with closing(first.browse(work)) as browsing:
            next(browsing)
            with pytest.raises(BrokerUnavailable, match="another command looks at"):
                list(second.browse(work))
        assert ids(list(second.browse(work))) == ids(events(3))


def test_a_look_that_ends_waits_for_no_broker_that_is_frozen(
    amqp_url: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("busworker.broker.browsing.QUIET", 0.2)
    monkeypatch.setattr("busworker.broker.browsing.ANSWER", 0.2)
    with Proxy(amqp_url) as proxy, Bench(proxy.url, home) as bench:
        session = bench.session()
        work = session.declare_work("user.registered", "email", "welcome")
        session.publish(events(300))
        wait_ready(session, work, 300)
        browsing = session.browse(work)
        next(browsing)
        proxy.freeze()
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="doesn't answer"):
            browsing.close()
        assert time.monotonic() - begun < 3
        proxy.thaw()


def test_browsing_pages_through_a_long_queue(session: Session, work: str) -> None:
    session.publish(events(250))
    assert ids(queued(session, work, 250)) == ids(events(250))


def test_browsing_the_engine_begins_at_either_end(engine: Bench) -> None:
    session = engine.session()
    work = session.declare_work("user.registered", "email", "welcome")
    session.publish(events(150))
    assert ids(list(session.browse(work))) == ids(events(150))[::-1]
    assert ids(list(session.browse(work, limit=2))) == ["m149", "m148"]


def test_what_is_held_is_not_browsed(bench: Bench, session: Session, work: str) -> None:
    session.publish(events(3))
    wait_ready(session, work, 3)
    fetched(bench.consumer(work, window=1), 1, window=1)
    assert ids(queued(session, work, 2)) == ["m1", "m2"]


def test_taking_settles_what_is_wanted_and_leaves_the_rest(bench: Bench, session: Session, work: str) -> None:
    session.publish(events(5))
    wait_ready(session, work, 5)
    taken = session.take(work, lambda delivery: delivery.properties["message_id"] in ("m1", "m3"), 5, 1)
    for (delivery,) in taken:
        session.settle([ack(delivery)])
    assert ids(queued(session, work, 3)) == ["m0", "m2", "m4"]


def test_what_was_taken_and_not_settled_goes_back_when_taking_ends(session: Session, work: str) -> None:
    session.publish(events(4))
    wait_ready(session, work, 4)
    with closing(session.take(work, any_, 4, 2)) as taken:
        first, second = next(taken)
        session.settle([ack(second)])
    assert (first.properties["message_id"], second.properties["message_id"]) == ("m0", "m1")
    assert ids(queued(session, work, 3)) == ["m0", "m2", "m3"]


def test_a_take_that_is_exhausted_gives_back_what_was_not_settled(session: Session, work: str) -> None:
    session.publish(events(3))
    wait_ready(session, work, 3)
    assert [ids(held) for held in session.take(work, any_, 5, 2)] == [["m0", "m1"], ["m2"]]
    assert ids(queued(session, work, 3)) == ["m0", "m1", "m2"]


def test_what_is_taken_last_can_be_settled_although_there_was_less_than_asked_for(session: Session, work: str) -> None:
    session.publish(events(3))
    wait_ready(session, work, 3)
    for held in session.take(work, any_, 5, 2):
        session.settle([ack(delivery) for delivery in held])
    wait_ready(session, work, 0)


def test_waiting_counts_retries_of_one_subscription_over_all_steps(engine: Bench) -> None:
    session = engine.session()
    work, other = (session.declare_work("user.registered", service, "welcome") for service in ("email", "crm"))
    session.publish(events(3))
    consumer = engine.consumer(work)
    for delivery, delay in zip(fetched(consumer, 3), (30, 30, 3600), strict=True):
        end(consumer, delivery, FAILED, delays=(delay,))
    assert (session.waiting(work), session.waiting(other)) == (3, 0)


def test_the_engine_lists_queues_and_says_whether_a_topic_is_subscribed_to(engine: Bench) -> None:
    session = engine.session()
    assert session.routed("user.registered") is False
    work = session.declare_work("user.*", "email", "welcome")
    assert session.routed("user.registered") is True
    assert session.routed("order.paid") is False
    names = session.queues()
    assert names is not None
    assert {work, f"{work}/dead", "busworker.unrouted"} <= set(names)


def any_(_: Delivery) -> bool:
    return True
