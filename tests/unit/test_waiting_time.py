"""From when a message was ready until its handler began, for metrics."""

import pytest

from busworker.ids import Ids
from busworker.ipc.frames import Handout
from busworker.worker.desk import waited


def handout(attempt: int, published_at: int | None, ready_at: int | None, id: str = "id") -> Handout:
    return Handout(1, 0, b"k" * 16, id, "t", attempt, published_at, None, {}, b"{}", ready_at)


@pytest.mark.parametrize(
    ("attempt", "published_at", "ready_at", "seconds"),
    [
        (1, 100, 100_250, 0.25),
        (3, 40, 100_000, 0.5),
        (1, 100, 100_900, 0.0),
        (1, 99, None, 1.5),
        (2, 99, None, None),
        (1, None, None, None),
    ],
    ids=["published", "retried", "another clock", "foreign", "foreign retried", "foreign without a time"],
)
def test_waiting_time(attempt: int, published_at: int | None, ready_at: int | None, seconds: float | None) -> None:
    assert waited(handout(attempt, published_at, ready_at), 100.5) == seconds


def test_what_has_an_id_of_ours_waits_from_when_that_was_made() -> None:
    id = Ids().new(100.375)
    assert waited(handout(1, 100, None, id), 100.5) == 0.125
    assert waited(handout(2, 100, None, id), 100.5) is None
