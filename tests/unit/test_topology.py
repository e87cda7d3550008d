"""The exact names and arguments of queues and exchanges: a changed one would need a new name on every broker."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busworker import names
from busworker.broker import topology
from busworker.broker.topology import EMBEDDED, Exchange, Flavour, Queue
from busworker.copies import Target
from busworker.message import LONGEST_DELAY
from busworker.retry import LADDER

QUORUM, CLASSIC = Flavour("quorum"), Flavour("classic")
RABBITMQ_4 = Flavour("quorum", unlimited_delivery=True)
WORK = "busworker.user.registered/email.welcome"
DEAD = f"{WORK}/dead"
SAFE = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
TO_THE_DEAD = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}
BINDINGS = (("busworker", "user.registered"), ("busworker.back", WORK))
BOUND = (*BINDINGS, ("busworker.due", "*." * 28 + "user.registered"))
"""On RabbitMQ: what was delayed comes by an exchange of its own."""


def test_names_are_those_of_the_design() -> None:
    assert names.subscription_name("user.registered", "email", "welcome") == "user.registered/email.welcome"
    assert topology.work_queue("user.registered", "email", "welcome") == WORK
    assert topology.dead_queue(WORK) == DEAD
    assert topology.retry_queues() == [
        f"busworker.retry.{seconds}"
        for seconds in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400)
    ]


@pytest.mark.parametrize(
    ("queue", "subscription"),
    [
        (WORK, "user.registered/email.welcome"),
        (DEAD, "user.registered/email.welcome"),
        ("busworker.#/log.all", "#/log.all"),
        ("busworker.user.*/log.all/dead", "user.*/log.all"),
        ("busworker.unrouted", None),
        ("busworker.retry.5", None),
        ("busworker.delayed", None),
        ("busworker.a/b", None),
        ("other.a/b.c", None),
        (f"{DEAD}/dead", None),
    ],
)
def test_a_queue_tells_its_subscription(queue: str, subscription: str | None) -> None:
    assert topology.subscription_of(queue) == subscription


def test_copies_go_to_the_ladder_back_or_to_the_dead() -> None:
    assert topology.retry_target(5, WORK) == Target("busworker.retry.5", WORK)
    assert topology.retry_target(0, WORK) == Target("busworker.back", WORK)
    assert topology.dead_target(WORK) == Target("", DEAD)


@pytest.mark.parametrize(("flavour", "typed"), [(EMBEDDED, False), (QUORUM, True), (CLASSIC, True), (RABBITMQ_4, True)])
def test_the_base_is_a_few_exchanges_and_the_unrouted_queue(flavour: Flavour, typed: bool) -> None:
    exchanges, queues = topology.base(flavour)
    assert exchanges == [
        Exchange("busworker.unrouted", "fanout"),
        Exchange("busworker", "topic", {"alternate-exchange": "busworker.unrouted"}),
        Exchange("busworker.back", "direct", {"alternate-exchange": "busworker.unrouted"}),
        *([Exchange("busworker.due", "topic", {"alternate-exchange": "busworker.unrouted"})] if typed else []),
    ]
    bounded: dict[str, object] = {"x-max-length": 100_000, "x-overflow": "drop-head"}
    quorum = {"x-queue-type": "quorum"} if typed else {}
    assert queues == [Queue("busworker.unrouted", bounded | quorum, (("busworker.unrouted", ""),))]


def test_a_subscription_on_the_engine_is_two_queues() -> None:
    assert topology.work("user.registered", "email", "welcome", EMBEDDED) == [
        Queue(DEAD),
        Queue(WORK, {**TO_THE_DEAD}, BINDINGS),
    ]


def test_a_subscription_on_quorum_queues_loses_nothing_on_its_way_to_the_dead() -> None:
    kind = {"x-queue-type": "quorum"}
    assert topology.work("user.registered", "email", "welcome", QUORUM) == [
        Queue(DEAD, {**kind}),
        Queue(WORK, {**TO_THE_DEAD, **kind, **SAFE}, BOUND),
    ]


def test_a_delivery_limit_is_lifted_only_where_the_broker_knows_that() -> None:
    kind = {"x-queue-type": "quorum", "x-delivery-limit": -1}
    assert topology.work("user.registered", "email", "welcome", RABBITMQ_4) == [
        Queue(DEAD, {**kind}),
        Queue(WORK, {**TO_THE_DEAD, **kind, **SAFE}, BOUND),
    ]


def test_classic_queues_have_no_argument_they_refuse() -> None:
    kind = {"x-queue-type": "classic"}
    assert topology.work("user.registered", "email", "welcome", CLASSIC) == [
        Queue(DEAD, {**kind}),
        Queue(WORK, {**TO_THE_DEAD, **kind}, BOUND),
    ]


@pytest.mark.parametrize("delay", LADDER)
def test_a_retry_queue_gives_back_by_the_work_queues_name(delay: int) -> None:
    name = f"busworker.retry.{delay}"
    exchange, queue = topology.retry(delay, EMBEDDED)
    assert exchange == Exchange(name, "fanout")
    assert queue == Queue(
        name, {"x-message-ttl": delay * 1000, "x-dead-letter-exchange": "busworker.back"}, ((name, ""),)
    )


@pytest.mark.parametrize("flavour", [QUORUM, CLASSIC, RABBITMQ_4])
def test_a_retry_queue_on_amqp_is_always_quorum(flavour: Flavour) -> None:
    _, queue = topology.retry(5, flavour)
    expected = {"x-message-ttl": 5000, "x-dead-letter-exchange": "busworker.back", "x-queue-type": "quorum", **SAFE}
    assert queue.arguments == expected


@pytest.mark.parametrize("delay", [0, 3, 86_401])
def test_there_are_only_the_ladders_retry_queues(delay: int) -> None:
    with pytest.raises(ValueError, match="no step of the ladder"):
        topology.retry(delay, EMBEDDED)


def test_delayed_messages_are_routed_when_due() -> None:
    exchange, queue = topology.delayed()
    assert exchange == Exchange("busworker.delayed", "fanout")
    assert queue == Queue("busworker.delayed", {"x-dead-letter-exchange": "busworker"}, (("busworker.delayed", ""),))


def test_a_delay_is_a_word_for_each_bit_and_starts_at_the_highest() -> None:
    target = topology.delayed_target(4.2, "user.registered")
    assert target.exchange == "busworker_celery_delayed_2"
    assert target.routing_key == "0." * 25 + "1.0.1.user.registered"
    assert topology.delayed_target(0.001, "t").exchange == "busworker_celery_delayed_0"


def test_a_delayed_message_is_bound_by_its_whole_topic() -> None:
    (_, work) = topology.work("user.*", "email", "welcome", QUORUM)
    assert ("busworker.due", "*." * 28 + "user.*") in work.bindings


@given(st.one_of(st.floats(0.001, 5000), st.integers(1, LONGEST_DELAY)))
def test_the_queues_that_a_delayed_message_passes_add_up_to_its_delay(delay: float) -> None:
    exchanges, queues = topology.delays()
    target = topology.delayed_target(delay, "order.0.1.placed")
    waited, at = 0, [target.exchange]
    while at != [topology.DUE]:
        (here,) = at  # never two ways, and never none
        at = [one.name for one in (*exchanges, *queues) if _bound(one, here, target.routing_key)]
        for queue in queues:
            if at == [queue.name] and here == queue.name:
                waited += int(str(queue.arguments["x-message-ttl"]))
                at = [str(queue.arguments["x-dead-letter-exchange"])]
    assert waited == math.ceil(delay) * 1000


def _bound(one: Exchange | Queue, source: str, routing_key: str) -> bool:
    """Whether a topic exchange gives it what has that routing key."""
    return any(
        re.fullmatch(pattern.replace(".", r"\.").replace("*", r"[^.]+").replace("#", ".*"), routing_key)
        for exchange, pattern in one.bindings
        if exchange == source
    )
