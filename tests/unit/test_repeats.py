"""Faults that come again and again: the first ones are told, the others counted, in bounded memory."""

from hypothesis import given
from hypothesis import strategies as st

from busworker.repeats import BURST, MOST, WINDOW, Again, Repeats


def test_the_first_ones_are_told_and_the_others_counted() -> None:
    repeats: Repeats[int] = Repeats()
    assert [repeats.seen("boom", n, 0.0) for n in range(BURST + 2)] == [True] * BURST + [False] * 2
    assert repeats.seen("other", 0, 0.0)
    assert repeats.due(WINDOW - 0.1) == []
    assert repeats.due(WINDOW) == [Again(2, WINDOW, BURST + 1)]


def test_one_that_goes_on_is_told_once_a_window() -> None:
    repeats: Repeats[int] = Repeats()
    told: list[Again[int]] = []
    shown = 0
    for second in range(301):
        told += repeats.due(float(second))
        shown += repeats.seen("boom", second, float(second))
    assert shown == BURST
    assert [(again.times, again.seconds) for again in told] == [(WINDOW - BURST, WINDOW)] + [(WINDOW, WINDOW)] * 4


def test_after_a_window_without_any_it_is_new_again() -> None:
    repeats: Repeats[int] = Repeats()
    for n in range(BURST + 1):
        repeats.seen("boom", n, 0.0)
    assert repeats.next_due == WINDOW
    assert len(repeats.due(WINDOW)) == 1
    assert repeats.due(2 * WINDOW) == []
    assert repeats.next_due == float("inf")
    assert repeats.seen("boom", 0, 2 * WINDOW)


def test_memory_is_bounded_and_what_was_counted_of_a_forgotten_one_is_told() -> None:
    repeats: Repeats[int] = Repeats()
    for n in range(BURST + 3):
        repeats.seen("first", n, 0.0)
    for n in range(3 * MOST):
        repeats.seen(f"fault {n}", n, 1.0)
    assert len(repeats._faults) == MOST
    assert repeats.due(2.0) == [Again(3, 1.0, BURST + 2)]
    assert repeats.due(2.0) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 100)), max_size=300))
def test_each_is_either_told_or_counted(faults: list[tuple[int, float]]) -> None:
    repeats: Repeats[int] = Repeats()
    now, told, counted = 0.0, 0, 0
    for kind, later in faults:
        now += later
        counted += sum(again.times for again in repeats.due(now))
        told += repeats.seen(f"{kind}", kind, now)
    counted += sum(again.times for again in repeats.rest(now))
    assert told + counted == len(faults)
    assert repeats.rest(now) == []
