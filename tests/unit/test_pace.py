"""How fast messages go."""

import time

import pytest

from busworker.pace import BATCH, Pace


@pytest.mark.parametrize(("rate", "size"), [(None, BATCH), (0.5, 1), (10, 1), (55, 5), (1e9, BATCH)])
def test_batches_are_small_where_the_rate_is(rate: float | None, size: int) -> None:
    assert Pace(rate).size == size


def test_the_next_batch_is_due_when_those_before_had_their_time() -> None:
    pace, told = Pace(1000), list[int]()
    pace.told = told.append
    begun = time.monotonic()
    pace.went(100)
    pace.went(100)
    assert pace.due - begun >= 0.1  # 0.2 s for them, and up to 0.1 s that may be made up for
    assert told == [100, 200]


def test_without_a_rate_nothing_waits() -> None:
    pace = Pace()
    pace.went(100)
    assert (pace.done, pace.due, pace.limited) == (100, 0.0, False)
