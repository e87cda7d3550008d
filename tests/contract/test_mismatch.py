"""What exists with other arguments on RabbitMQ: named, and no end of the session; a delivery limit is no difference."""

from collections.abc import Iterator
from typing import Any

import kombu
import msgspec
import pytest

from busworker.broker import topology
from busworker.broker.connection import translated
from busworker.broker.session import Session, open_session
from busworker.broker.topology import EXCHANGE, Flavour, dead_queue, work_queue
from busworker.errors import BrokerUnavailable, TopologyMismatch
from tests.contract.bench import Bench, event, ids, queued
from tests.support import Home

SUBSCRIPTION = ("user.registered", "email", "welcome")
WORK = work_queue(*SUBSCRIPTION)
LONG = ("t" * 100, "s" * 40, "c" * 40)
"""A subscription whose names leave no room for values in RabbitMQ's texts."""
DEAD_ARGUMENTS, WORK_ARGUMENTS = (queue.arguments for queue in topology.work(*SUBSCRIPTION, Flavour("quorum")))


class Others:
    """Another program, which makes queues and exchanges of its own."""

    def __init__(self, connection: kombu.Connection) -> None:
        self.channel: Any = connection.channel()

    def queue(self, name: str, arguments: dict[str, object], *, durable: bool = True) -> None:
        self.channel.queue_declare(name, durable=durable, auto_delete=False, arguments=arguments)

    def exchange(self, name: str, kind: str) -> None:
        self.channel.exchange_declare(name, kind, durable=True, auto_delete=False)


@pytest.fixture
def session(amqp_url: str, home: Home) -> Iterator[Session]:
    with Bench(amqp_url, home) as bench:
        yield bench.session()


@pytest.fixture
def others(amqp_url: str, session: Session) -> Iterator[Others]:
    with kombu.Connection(amqp_url) as connection:
        yield Others(connection)


@pytest.mark.parametrize(
    ("arguments", "durable", "said"),
    [
        ({}, True, "exists with x-dead-letter-exchange none, not ''"),
        ({**WORK_ARGUMENTS, "x-message-ttl": 5000}, True, "exists with x-message-ttl '5000', not none"),
        (
            {**WORK_ARGUMENTS, "x-overflow": "drop-head"},
            True,
            "exists with x-overflow 'drop-head', not 'reject-publish'",
        ),
        ({}, False, "exists with durable 'false', not 'true'"),
        (
            {**WORK_ARGUMENTS, "x-delivery-limit": 5, "x-dead-letter-routing-key": "it's"},
            True,
            f"exists with x-dead-letter-routing-key \"it's\", not '{WORK}/dead'",
        ),
    ],
)
def test_a_queue_that_differs_is_named(
    session: Session, others: Others, arguments: dict[str, object], durable: bool, said: str
) -> None:
    others.queue(WORK, arguments, durable=durable)
    with pytest.raises(TopologyMismatch) as caught:
        session.declare_work(*SUBSCRIPTION)
    assert f"queue '{WORK}' {said}: delete it" in str(caught.value)


def test_the_other_queue_type_is_named_with_the_option_that_takes_it(
    amqp_url: str, session: Session, home: Home
) -> None:
    session.declare_work(*SUBSCRIPTION)
    with Bench(f"{amqp_url}?queue_type=classic", home) as bench, pytest.raises(TopologyMismatch) as caught:
        bench.session().declare_work(*SUBSCRIPTION)
    assert f"'{WORK}/dead' exists with x-queue-type 'quorum', not 'classic': give ?queue_type=quorum" in str(
        caught.value
    )


def test_an_exchange_that_differs_is_named(amqp_url: str, others: Others) -> None:
    others.channel.exchange_delete(EXCHANGE)
    others.exchange(EXCHANGE, "direct")
    session = open_session(amqp_url)
    try:
        with pytest.raises(TopologyMismatch, match="exchange 'busworker' exists with type 'direct', not 'topic'"):
            session.declare()
    finally:
        session.close()


def test_a_session_goes_on_after_a_mismatch(session: Session, others: Others) -> None:
    work = session.declare_work(*SUBSCRIPTION)
    others.exchange("busworker.retry.5", "direct")
    for _ in range(2):
        with pytest.raises(TopologyMismatch, match=r"exchange 'busworker\.retry\.5'"):
            session.declare_retry(5)
    session.publish([event(message_id="one")])
    assert ids(queued(session, work, 1)) == ["one"]
    others.channel.exchange_delete("busworker.retry.5")
    session.declare_retry(5)


def test_a_queue_for_delays_that_differs_is_named_and_fails_no_other_message(session: Session, others: Others) -> None:
    others.queue("busworker_celery_delayed_27", {})
    delayed = msgspec.structs.replace(event(), delay=1.0)
    for _ in range(2):
        before, error, after = session.publish([event(), delayed, event()])
        assert isinstance(error, TopologyMismatch)
        assert "queue 'busworker_celery_delayed_27' exists with" in str(error)
        assert (before, after) == (None, None)


@pytest.mark.parametrize("unlimited", [False, True], ids=["as on 3.10", "as on 4"])
@pytest.mark.parametrize("subscription", [SUBSCRIPTION, LONG], ids=["short", "long"])
@pytest.mark.parametrize("limit", [{}, {"x-delivery-limit": 5}], ids=["no limit", "limit"])
def test_a_queue_is_used_with_the_delivery_limit_it_has(
    session: Session,
    others: Others,
    limit: dict[str, object],
    subscription: tuple[str, str, str],
    unlimited: bool,
) -> None:
    work = work_queue(*subscription)
    others.queue(dead_queue(work), DEAD_ARGUMENTS | limit)
    others.queue(work, WORK_ARGUMENTS | {"x-dead-letter-routing-key": dead_queue(work)} | limit)
    session._declarer._flavour = Flavour("quorum", unlimited_delivery=unlimited)
    for _ in range(2):
        assert session.declare_work(*subscription) == work
    session.publish([event(subscription[0], message_id="one")])
    assert ids(queued(session, work, 1)) == ["one"]


def test_a_precondition_that_is_about_no_declaration_is_no_mismatch(session: Session, others: Others) -> None:
    others.channel.basic_ack(77)
    with pytest.raises(BrokerUnavailable, match="unknown delivery tag 77"), translated(session.broker):
        others.channel.queue_declare(WORK, passive=True)
