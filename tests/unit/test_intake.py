"""How a consumer knows a message again after its connection was lost."""

from pathlib import Path

import pytest

from busworker import outcome as how
from busworker.consumer.dispatch import Held
from busworker.consumer.intake import OVERDUE, Intake
from busworker.consumer.settling import Ended
from busworker.declaration import SubscriptionSpec
from busworker.message import Delivery

SUBSCRIPTION = SubscriptionSpec("a.made", pattern=False, max_attempts=3, delays=(0.0,), time_limit=None, kill_after=5.0)


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    return Intake(tmp_path / "board", (SUBSCRIPTION,))


def delivery(tag: int, *, redelivered: bool = False, **properties: object) -> Delivery:
    return Delivery(tag, "work", "a.made", redelivered, properties, {}, b"{}")


def admitted(intake: Intake, tag: int, **properties: object) -> Held:
    held = intake.admit(delivery(tag, **properties), 0)
    assert isinstance(held, Held)
    return held


def test_an_executing_message_is_matched_with_its_redelivery(intake: Intake) -> None:
    held = admitted(intake, 1, message_id="m1")
    intake.lose([held])
    assert intake.admit(delivery(2, redelivered=True, message_id="m1"), 0) is None
    assert (held.lost, held.delivery.tag) == (False, 2)


def test_an_outcome_that_came_meanwhile_is_settled_at_the_redelivery(intake: Intake) -> None:
    held = admitted(intake, 1, message_id="m1")
    intake.lose([held])
    held.outcome = how.Returned()
    ended = intake.admit(delivery(2, redelivered=True, message_id="m1"), 0)
    assert isinstance(ended, Ended)
    assert (ended.held, ended.outcome) == (held, how.Returned())


def test_a_connection_lost_twice_before_the_redelivery_changes_nothing(intake: Intake) -> None:
    held = admitted(intake, 1, message_id="m1")
    intake.lose([held])
    intake.lose([held])
    assert intake.admit(delivery(2, redelivered=True, message_id="m1"), 0) is None
    again = intake.admit(delivery(3, redelivered=True, message_id="m1"), 0)
    assert isinstance(again, Held), "matched only once: this is another message with that id"


def test_each_of_two_foreign_messages_that_are_alike_is_matched(intake: Intake) -> None:
    one, other = admitted(intake, 1), admitted(intake, 2)
    assert one.key == other.key
    intake.lose([one, other])
    assert [intake.admit(delivery(tag, redelivered=True), 0) for tag in (3, 4)] == [None, None]
    assert (one.delivery.tag, other.delivery.tag) == (3, 4)
    assert isinstance(intake.admit(delivery(5, redelivered=True), 0), Held)


def test_what_nobody_executes_any_more_is_new_when_it_comes_again(intake: Intake) -> None:
    held = admitted(intake, 1, message_id="m1")
    intake.lose([held])
    intake.forget([held])
    again = intake.admit(delivery(2, redelivered=True, message_id="m1"), 0)
    assert isinstance(again, Held)
    assert again is not held


def test_what_has_ended_and_does_not_come_back_is_forgotten(intake: Intake) -> None:
    ended, executing = admitted(intake, 1, message_id="m1"), admitted(intake, 2, message_id="m2")
    intake.lose([ended, executing])
    ended.outcome = how.Returned()
    intake.connected(100.0)
    assert intake.overdue(100.0 + OVERDUE - 0.1) == []
    assert intake.overdue(100.0 + OVERDUE) == [ended]
    assert intake.overdue(100.0 + 2 * OVERDUE) == []
    assert isinstance(intake.admit(delivery(3, redelivered=True, message_id="m1"), 0), Held)
    assert intake.admit(delivery(4, redelivered=True, message_id="m2"), 0) is None, "this one is still executing"


def test_without_a_connection_nothing_is_overdue(intake: Intake) -> None:
    held = admitted(intake, 1, message_id="m1")
    intake.connected(0.0)
    intake.lose([held])
    held.outcome = how.Returned()
    assert intake.overdue(10 * OVERDUE) == []
