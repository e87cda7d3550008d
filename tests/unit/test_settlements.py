"""Outcomes stay until the session has settled them, and go with their messages when it is lost."""

import itertools

import pytest

from busworker import outcome as how
from busworker.broker.session import Settled
from busworker.consumer.dispatch import Held
from busworker.consumer.settlements import Settlements
from busworker.consumer.settling import Ended
from busworker.declaration import SubscriptionSpec
from busworker.errors import BrokerUnavailable
from busworker.message import Delivery, Envelope
from busworker.outcome import Error, WorkerInfo

SPEC = SubscriptionSpec("t", False, 3, (5.0,), 10.0, 1.0)
numbers = itertools.count(1)


class Session:
    """Remembers what it is told, as the boundary of `submit`."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.fails = False

    def declare_retry(self, delay: int) -> None:
        self.told.append(delay)

    def submit(self, items: list[Settled]) -> None:
        if self.fails:
            raise BrokerUnavailable("gone")
        self.told += [(item.tag, len(item.publishes)) for item in items]


def ended(outcome: how.Outcome) -> Ended:
    delivery = Delivery(next(numbers), "work", "t", False, {"message_id": "m"}, {}, b"{}")
    envelope = Envelope("m", "t", 1, 0, None, None)
    return Ended(Held(delivery, envelope, b"k" * 16, 0), outcome, WorkerInfo())


def test_what_ended_is_submitted_once_and_leaves_when_it_is_concluded() -> None:
    settlements, session = Settlements((SPEC,)), Session()
    done, failed = ended(how.Returned()), ended(how.Raised(Error("ValueError", "x")))
    settlements.add(done)
    settlements.add(failed)
    assert settlements.fresh
    settlements.submit(session, 0.0)  # type: ignore[arg-type]
    settlements.submit(session, 0.0)  # type: ignore[arg-type]
    tags = [one.held.delivery.tag for one in (done, failed)]
    assert session.told == [5, (tags[0], 0), (tags[1], 1)]
    assert (settlements.fresh, settlements.left) == (False, True)
    assert [one.ended for one in settlements.concluded(tags[::-1])] == [failed, done]
    assert not settlements.left


def test_what_could_not_be_submitted_stays() -> None:
    settlements, session = Settlements((SPEC,)), Session()
    settlements.add(ended(how.Returned()))
    session.fails = True
    with pytest.raises(BrokerUnavailable):
        settlements.submit(session, 0.0)  # type: ignore[arg-type]
    assert settlements.fresh


def test_what_was_begun_before_a_submit_failed_is_not_concluded_but_lost() -> None:
    settlements, session = Settlements((SPEC,)), Session()
    begun = ended(how.Returned())
    settlements.add(begun)
    session.fails = True
    with pytest.raises(BrokerUnavailable):
        settlements.submit(session, 0.0)  # type: ignore[arg-type]
    assert settlements.concluded([begun.held.delivery.tag]) == []
    assert settlements.lose() == [begun.held]


def test_a_lost_session_leaves_the_outcomes_with_their_messages() -> None:
    settlements = Settlements((SPEC,))
    under_way, fresh = ended(how.Returned()), ended(how.Raised(Error("ValueError", "x")))
    settlements.add(under_way)
    settlements.submit(Session(), 0.0)  # type: ignore[arg-type]
    settlements.add(fresh)
    assert settlements.lose() == [under_way.held, fresh.held]
    assert (under_way.held.outcome, fresh.held.outcome) == (under_way.outcome, fresh.outcome)
    assert not settlements.left
