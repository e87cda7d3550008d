"""Where a message is, by what a store holds of it."""

from typing import Any

import pytest

from busworker.message import Delivery
from busworker.whereabouts import Holder, Place, executed, place

WORK = "busworker.user.registered/email.welcome"
NAME = "user.registered/email.welcome"
WORKER = Holder("email", "default", "welcome", 1, 42, None)


def stored(queue: str, routing_key: str = "user.registered", **headers: Any) -> Delivery:
    told = {"x-busworker-topic": "user.registered", **{f"x-busworker-{name}": value for name, value in headers.items()}}
    return Delivery(1, queue, routing_key, False, {"message_id": "m1"}, told, b"{}")


@pytest.mark.parametrize(
    ("delivery", "held", "due", "expected"),
    [
        (stored(WORK), False, None, Place("ready", NAME, "user.registered", attempt=1)),
        (stored(WORK, attempt=3), True, None, Place("in_flight", NAME, "user.registered", attempt=3)),
        (
            stored("busworker.retry.5", WORK, attempt=2),
            False,
            0.5,
            Place("waiting", NAME, "user.registered", attempt=2, until="1970-01-01T00:00:00.500Z"),
        ),
        (
            stored("busworker.delayed"),
            False,
            1,
            Place("delayed", None, "user.registered", until="1970-01-01T00:00:01.000Z"),
        ),
        (stored("busworker.unrouted"), False, None, Place("unrouted", None, "user.registered")),
        (
            stored(f"{WORK}/dead", attempts=5, reason="crash"),
            True,
            None,
            Place("dead", NAME, "user.registered", attempt=5, reason="crash"),
        ),
        (stored("busworker.tail.0a"), False, None, None),
        (stored("celery"), False, None, None),
    ],
)
def test_a_queue_says_what_a_message_waits_for(
    delivery: Delivery, held: bool, due: float | None, expected: Place | None
) -> None:
    assert place(delivery, held=held, due=due) == expected


def test_a_worker_belongs_to_the_subscription_of_its_channel() -> None:
    other, ready = Place("ready", "a/log.all"), Place("ready", NAME, attempt=2)
    found = executed([other, ready], [(WORKER, [NAME, "b/email.welcome"])])
    assert found == [other, Place("in_flight", NAME, attempt=2, worker=WORKER)]


def test_a_worker_whose_message_is_not_seen_is_a_place_itself() -> None:
    dead = Place("dead", NAME)
    assert executed([dead], [(WORKER, [NAME])]) == [dead, Place("in_flight", NAME, worker=WORKER)]
    assert executed([], [(WORKER, [NAME, "b/email.welcome"])]) == [Place("in_flight", None, worker=WORKER)]
