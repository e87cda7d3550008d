"""Groups of dead letters. No broker."""

from busworker.groups import Group, grouped
from busworker.letters import Cause, DeadLetter


def letter(subscription: str | None, reason: str | None, at: str | None, message: str | None = None) -> DeadLetter:
    cause = None if message is None else Cause("ValueError", message, None)
    return DeadLetter(None, subscription, "t", reason, 1, "2025-01-01", at, cause, None, {}, None, None, [])


def test_groups_are_those_of_a_subscription_the_largest_first() -> None:
    letters = [letter("s", "crash", "1"), letter("s", "crash", "2"), letter("r", "crash", "3"), letter("r", None, "4")]
    assert grouped(letters, "reason") == [
        Group("s", "crash", 2, "1", "2"),
        Group("r", None, 1, "4", "4"),
        Group("r", "crash", 1, "3", "3"),
    ]


def test_a_group_has_the_message_of_its_newest_in_whatever_order_they_come() -> None:
    letters = [letter("s", "exception", at, f"at {at}") for at in ("2", "3", "1")]
    assert grouped(letters, "error") == [Group("s", "ValueError", 3, "1", "3", "at 3")]


def test_an_unrouted_message_has_the_time_of_its_publishing() -> None:
    assert grouped([letter(None, None, None)], "error") == [Group(None, None, 1, "2025-01-01", "2025-01-01")]
