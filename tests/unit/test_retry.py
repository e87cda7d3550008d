"""Retry policies and the ladder of delays."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busworker.errors import ConfigurationError, Retry
from busworker.retry import LADDER, RetryPolicy, on_ladder

HOUR = 3600


def test_the_ladder_is_that_of_the_design() -> None:
    minutes = [60 * step for step in (1, 2, 5, 10, 30)]
    hours = [HOUR * step for step in (1, 2, 6, 12, 24)]
    assert list(LADDER) == [1, 2, 5, 10, 30, *minutes, *hours]


@pytest.mark.parametrize(
    ("delay", "step"),
    [(0, 0), (-1, 0), (0.001, 1), (1, 1), (1.001, 2), (3, 5), (31, 60), (1801, HOUR), (86_400, 86_400), (1e9, 86_400)],
)
def test_a_delay_is_rounded_up_to_the_ladder(delay: float, step: int) -> None:
    assert on_ladder(delay) == step


@given(st.floats(0, 86_400, exclude_min=True))
def test_a_step_is_the_smallest_that_is_not_shorter(delay: float) -> None:
    assert on_ladder(delay) == min(step for step in LADDER if step >= delay)


def test_the_default_policy_is_that_of_the_design() -> None:
    policy = RetryPolicy()
    assert policy == RetryPolicy(max_attempts=8, delays=(1, 5, 30, 120, 600, 1800, 3600), dead_on=())
    assert [policy.delay_after(attempt) for attempt in range(1, 8)] == list(policy.delays)


def test_the_last_delay_repeats() -> None:
    policy = RetryPolicy(delays=(2, 7.5))
    assert [policy.delay_after(attempt) for attempt in (1, 2, 3, 100)] == [2, 7.5, 7.5, 7.5]


def test_lists_are_taken_and_kept_as_tuples() -> None:
    given: dict[str, Any] = {"delays": [1, 2], "dead_on": [KeyError]}
    policy = RetryPolicy(**given)
    assert (policy.delays, policy.dead_on) == ((1, 2), (KeyError,))
    assert hash(policy) == hash(RetryPolicy(delays=(1, 2), dead_on=(KeyError,)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"max_attempts": 2.5},
        {"max_attempts": "3"},
        {"max_attempts": None},
        {"delays": ()},
        {"delays": (1, -1)},
        {"delays": (86_401,)},
        {"delays": (float("nan"),)},
        {"delays": (float("inf"),)},
        {"delays": ("5s",)},
        {"delays": (None,)},
        {"dead_on": ("KeyError",)},
        {"dead_on": (KeyError("x"),)},
        {"dead_on": (int,)},
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_by_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=name):
        RetryPolicy(**wrong)


@pytest.mark.parametrize("after", [-1, 86_401, float("nan")])
def test_a_retry_takes_a_delay_of_up_to_a_day(after: float) -> None:
    with pytest.raises(ValueError, match="0 to 86400"):
        Retry(after=after)


def test_a_retry_keeps_its_reason_and_delay() -> None:
    asked = Retry("busy", after=10)
    assert (str(asked), asked.after, Retry().after) == ("busy", 10, None)
    assert str(Retry())
