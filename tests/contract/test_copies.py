"""What comes out of retry queues and dead letters, on every transport: the original bytes, and what we add."""

import json
import time
from typing import Any

import pytest
from amqp.basic_message import Message as AmqpMessage

from busworker import deadletters
from busworker import outcome as how
from busworker.broker.session import Counts, Session
from busworker.broker.topology import EXCHANGE, dead_queue
from busworker.letters import Filter, read_letter
from busworker.message import Delivery, Outgoing
from busworker.outcome import Error
from tests.contract.bench import FAILED, Bench, ack, end, event, events, fetched, ids, queued, wait_ready
from tests.support import wait_until

FOREIGN = {
    "content_type": "application/json",
    "message_id": "foreign",
    "correlation_id": "c-1",
    "reply_to": "answers",
    "type": "odd",
    "app_id": "legacy",
    "priority": 3,
}
"""Properties that a copy keeps."""


def publish_foreign(bench: Bench, body: bytes, headers: dict[str, Any], **properties: object) -> None:
    """As another program on the bus would: without any header of ours."""
    channel = bench.kombu().channel()
    channel.basic_publish(AmqpMessage(body, application_headers=headers, **properties), EXCHANGE, "user.registered")


def check_foreign_kept(copy: Delivery) -> None:
    """The body, the properties and headers of the publisher are there, and what a copy must not carry isn't."""
    assert copy.body == b'{"user_id": 1}'
    assert FOREIGN.items() <= copy.properties.items()
    assert copy.properties["delivery_mode"] == 2
    assert not {"user_id", "expiration", "cluster_id"} & copy.properties.keys()
    assert (copy.headers["mine"], copy.headers["nested"]) == ("kept", {"a": [1, True]})
    assert not {"CC", "BCC"} & copy.headers.keys()
    assert "never.there" not in str(copy.headers)


def publish_what_must_not_be_copied(bench: Bench) -> None:
    headers = {
        "mine": "kept",
        "nested": {"a": [1, True]},
        "CC": ["user.copied"],
        "BCC": ["user.hidden"],
        "x-first-death-queue": "never.there",
        "x-death": [{"queue": "never.there", "reason": "rejected", "count": 7}],
    }
    publish_foreign(bench, b'{"user_id": 1}', headers, user_id="guest", expiration="600000", **FOREIGN)


# Retries


def test_a_retried_message_comes_back_after_its_delay_as_the_next_attempt(
    bench: Bench, session: Session, work: str
) -> None:
    session.publish([event(body=b'{"user_id": 42}', message_id="again", correlation_id="c", app_id="signup")])
    consumer = bench.consumer(work)
    (first,) = fetched(consumer, 1)
    settled = time.monotonic()
    assert end(consumer, first, FAILED, delays=(1,)) == 1
    (second,) = fetched(consumer, 1)
    assert time.monotonic() - settled >= 0.99  # a broker counts in milliseconds
    assert second.queue == work
    assert (second.headers["x-busworker-attempt"], second.headers["x-busworker-topic"]) == (2, "user.registered")
    assert (second.properties, second.body) == (first.properties, b'{"user_id": 42}')
    consumer.settle([ack(second)])


def test_a_retry_copy_leaves_out_what_would_harm_it(bench: Bench, session: Session, work: str) -> None:
    copied = session.declare_work("user.copied", "email", "welcome")
    publish_what_must_not_be_copied(bench)
    consumer = bench.consumer(work)
    for attempt in (2, 3):
        (delivery,) = fetched(consumer, 1)
        end(consumer, delivery, FAILED, delays=(1,))
        (copy,) = fetched(consumer, 1)
        check_foreign_kept(copy)
        assert copy.headers["x-busworker-attempt"] == attempt
        end(consumer, copy, how.Stopped())
    copies = session.counts(copied)
    assert copies is not None
    assert copies.ready == (0 if bench.embedded else 1), "the CC of the original counts once, where a broker knows it"


def test_a_retry_without_delay_goes_straight_back(bench: Bench, session: Session, work: str) -> None:
    session.publish([event(message_id="again")])
    consumer = bench.consumer(work)
    for attempt in (2, 3, 4):
        (delivery,) = fetched(consumer, 1)
        assert end(consumer, delivery, FAILED, delays=(0,)) == 0
        (copy,) = queued_again = fetched(consumer, 1)
        assert (ids(queued_again), copy.headers["x-busworker-attempt"]) == (["again"], attempt)
        assert not copy.redelivered
        end(consumer, copy, how.Stopped())


@pytest.mark.parametrize(("delay", "step"), [(0.2, 1), (1.5, 2), (11, 30), (86_400, 86_400), (1_000_000, 86_400)])
def test_a_delay_is_rounded_up_to_a_step_of_the_ladder(
    bench: Bench, session: Session, work: str, delay: float, step: int
) -> None:
    session.publish([event(message_id="waits")])
    consumer = bench.consumer(work)
    assert end(consumer, fetched(consumer, 1)[0], how.Raised(Error("Retry", ""), after=delay)) == step
    assert ids(queued(session, f"busworker.retry.{step}", 1)) == ["waits"]
    assert session.waiting(work) == (1 if bench.embedded else None)


def test_retry_queues_are_shared_and_each_message_finds_its_own_way_back(bench: Bench, session: Session) -> None:
    works = [session.declare_work("user.registered", service, "welcome") for service in ("email", "crm")]
    session.publish([event(message_id="shared")])
    consumers = [bench.consumer(work) for work in works]
    for consumer in consumers:
        end(consumer, fetched(consumer, 1)[0], FAILED, delays=(1,))
    for consumer, work in zip(consumers, works, strict=True):
        (back,) = fetched(consumer, 1)
        assert (back.queue, back.properties["message_id"]) == (work, "shared")


def test_a_retry_of_a_removed_subscription_is_unrouted_and_blocks_nobody(engine: Bench) -> None:
    session = engine.session()
    kept, removed = (session.declare_work("user.registered", service, "welcome") for service in ("email", "crm"))
    session.publish([event(message_id="both")])
    consumer = engine.consumer(removed, kept)
    for delivery in fetched(consumer, 2):
        end(consumer, delivery, FAILED, delays=(1,))
    engine.kombu().channel().queue_delete(removed)
    assert [delivery.queue for delivery in fetched(consumer, 1)] == [kept]
    assert ids(queued(session, "busworker.unrouted", 1)) == ["both"]


# Dead letters


def test_a_dead_letter_carries_the_message_and_the_cause(bench: Bench, session: Session, work: str) -> None:
    publish_what_must_not_be_copied(bench)
    consumer = bench.consumer(work)
    end(consumer, fetched(consumer, 1)[0], FAILED, max_attempts=1)
    (letter,) = queued(session, dead_queue(work), 1)
    check_foreign_kept(letter)
    assert "x-death" not in letter.headers
    ours = {name: value for name, value in letter.headers.items() if name.startswith("x-busworker-")}
    error, worker = (json.loads(ours.pop(f"x-busworker-{name}")) for name in ("error", "worker"))
    assert error == {"type": "ValueError", "message": "no such user", "traceback": "Traceback …"}
    assert worker == {"host": "host", "pid": 42, "signal": "SIGSEGV", "exit_code": None, "rss": None}
    assert ours == {
        "x-busworker-topic": "user.registered",
        "x-busworker-attempt": 1,
        "x-busworker-attempts": 1,
        "x-busworker-reason": "exception",
        "x-busworker-dead-at": "2023-11-14T22:13:20.500Z",
    }


def test_a_replayed_dead_letter_is_attempt_1_of_a_new_generation(bench: Bench, session: Session, work: str) -> None:
    session.publish([event(body=b"[1]", message_id="revived", correlation_id="c")])
    consumer = bench.consumer(work)
    end(consumer, fetched(consumer, 1)[0], FAILED, max_attempts=1)
    dead = dead_queue(work)
    wait_ready(session, dead, 1)
    for generation in (1, 2):
        assert deadletters.replay(session, [dead], Filter(), None, lambda: 1_700_000_100.0) == 1
        (delivery,) = fetched(consumer, 1)
        assert (delivery.headers["x-busworker-attempt"], delivery.headers["x-busworker-replay"]) == (1, generation)
        assert (delivery.body, delivery.properties["correlation_id"], delivery.queue) == (b"[1]", "c", work)
        end(consumer, delivery, FAILED, max_attempts=1)
        wait_ready(session, dead, 1)
    (letter,) = deadletters.find(session, [dead], Filter(), None)
    assert [entry["reason"] for entry in letter.history] == ["exception", "exception"]


def test_a_message_that_expired_is_a_dead_letter(bench: Bench, session: Session, work: str) -> None:
    publish_foreign(bench, b'{"user_id": 1}', {"mine": "kept"}, expiration="1", message_id="late")
    watcher = bench.consumer(session.declare_work("other", "email", "welcome"))
    dead = dead_queue(work)

    def died() -> bool:
        watcher.fetch(1)  # somebody must look at the engine
        counts = session.counts(dead)
        return counts is not None and counts.ready == 1

    wait_until(died, 10, "the expired message among the dead letters")
    (letter,) = (read_letter(delivery) for delivery in session.browse(dead))
    assert (letter.reason, letter.id, letter.attempts, letter.body) == ("expired", "late", 0, {"user_id": 1})
    assert letter.headers == {"mine": "kept"}
    assert letter.dead_at is not None


# Bodies


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00\xff\xfe not JSON", "ünïcödé".encode("utf-16"), bytes(range(256)) * 4096],
    ids=["empty", "binary", "utf-16", "1 MB"],
)
def test_a_body_comes_through_unchanged_whatever_it_is(bench: Bench, session: Session, work: str, body: bytes) -> None:
    session.publish([event(body=body, content_type="application/json", content_encoding="utf-8")])
    consumer = bench.consumer(work)
    (delivery,) = fetched(consumer, 1)
    assert delivery.body == body
    end(consumer, delivery, FAILED, delays=(0,))
    (again,) = fetched(consumer, 1)
    assert again.body == body
    end(consumer, again, how.Rejected(Error("Reject", "no")))
    (letter,) = queued(session, dead_queue(work), 1)
    assert letter.body == body


def test_many_large_bodies_fill_no_buffer_for_good(bench: Bench, session: Session, work: str) -> None:
    body = b"x" * 1_000_000
    session.publish([event(body=body, message_id=f"m{number}") for number in range(8)])
    found = fetched(bench.consumer(work), 8)
    assert ids(found) == ids(events(8))
    assert all(delivery.body == body for delivery in found)


# Foreign clients


def test_a_bare_body_with_a_routing_key_is_delivered(bench: Bench, work: str) -> None:
    bench.kombu().channel().basic_publish(AmqpMessage(b'{"user_id": 1}'), EXCHANGE, "user.registered")
    (delivery,) = fetched(bench.consumer(work), 1)
    assert (delivery.body, delivery.routing_key, delivery.headers) == (b'{"user_id": 1}', "user.registered", {})


def test_a_kombu_producer_can_publish_to_a_subscription(bench: Bench, work: str) -> None:
    connection = bench.kombu()
    with connection.Producer() as producer:
        producer.publish({"user_id": 1}, exchange=EXCHANGE, routing_key="user.registered", headers={"trace": "t"})
    (delivery,) = fetched(bench.consumer(work), 1)
    assert json.loads(delivery.body) == {"user_id": 1}
    assert (delivery.properties["content_type"], delivery.headers) == ("application/json", {"trace": "t"})


def test_a_dead_letter_that_is_gone_meanwhile_is_neither_dropped_nor_counted(
    bench: Bench, session: Session, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = dead_queue(work)
    session.publish([Outgoing("", dead, b"1", {"message_id": f"m{number}"}, {}) for number in range(3)])
    wait_ready(session, dead, 3)
    interrupted = bench.session()
    counts = interrupted.counts

    def counted(queue: str) -> Counts | None:
        """Somebody else drops one after this session has counted them, and before it takes them."""
        found = counts(queue)
        deadletters.drop(session, [queue], Filter(frozenset({"m1"})), None)
        return found

    monkeypatch.setattr(interrupted, "counts", counted)
    assert deadletters.drop(interrupted, [dead], Filter(), None) == 2
    wait_ready(session, dead, 0)
