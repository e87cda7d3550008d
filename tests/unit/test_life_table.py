"""The table by which random lives are judged objects to what it must object to."""

from collections.abc import Callable

import pytest

from tests.support.life.table import Rules, Table, Violation

KEY, OTHER = b"k" * 16, b"o" * 16


@pytest.fixture
def table() -> Table:
    table = Table(Rules(1, (0,)))
    table.published(b"m", Rules(2, (5,)))
    return table


def execute(table: Table, attempt: int = 1, now: float = 0.0) -> None:
    table.handed(b"m", attempt, KEY, now)
    table.begun(b"m")


def fail(table: Table) -> None:
    execute(table)
    table.ended(b"m", "exception")
    table.settled(b"m", 1, now=100.0)


def test_a_life_with_a_retry_a_death_and_a_replay_is_fine(table: Table) -> None:
    fail(table)
    execute(table, 2, now=105.0)
    table.ended(b"m", "crash")
    table.settled(b"m", 2, now=106.0)
    assert table.lives[b"m"].dead == ("crash", 2)
    table.replayed(b"m")
    execute(table)
    table.ended(b"m", "returned", published=(b"child",))
    table.settled(b"m", 1, now=107.0)
    assert table.unfinished == [b"child"]


def test_what_was_executing_when_its_pool_was_killed_is_charged(table: Table) -> None:
    execute(table)
    table.pool_killed([KEY])
    table.settled(b"m", 1, now=0.0)
    assert table.lives[b"m"].attempt == 2


def test_a_death_of_which_the_consumer_did_not_know_may_charge_or_not(table: Table) -> None:
    execute(table)
    table.given_back(b"m", untold=True)
    table.pool_killed([])
    execute(table)
    table.given_back(b"m", untold=True)
    table.pool_killed([KEY])
    assert table.lives[b"m"].state == "owed"


def twice_at_a_time(table: Table) -> None:
    execute(table)
    execute(table)


def too_early(table: Table) -> None:
    fail(table)
    execute(table, 2, now=104.9)


def too_often(table: Table) -> None:
    fail(table)
    execute(table, 2, now=105.0)
    table.ended(b"m", "crash")
    table.settled(b"m", 2, now=106.0)
    execute(table, 3, now=200.0)


def uncharged(table: Table) -> None:
    fail(table)
    execute(table, 1, now=105.0)


def settled_while_it_waits(table: Table) -> None:
    table.settled(b"m", 1, now=0.0)


def charged_while_it_waits(table: Table) -> None:
    table.handed(b"m", 1, KEY, 0.0)
    table.pool_killed([KEY])


def charged_although_it_was_given_back(table: Table) -> None:
    execute(table)
    table.given_back(b"m", untold=True)
    table.told()
    table.pool_killed([KEY])


def charged_to_nobody(table: Table) -> None:
    execute(table)
    table.pool_killed([OTHER])


def stranger(table: Table) -> None:
    table.handed(b"nobody published it", 1, KEY, 0.0)


def event_of_a_failure(table: Table) -> None:
    fail(table)
    table.handed(b"child", 1, KEY, 0.0)


def executing_after_the_drain(table: Table) -> None:
    execute(table)
    table.in_rest()


def stray_executed(table: Table) -> None:
    table.published(b"stray", Rules(2, (0,)), served=False)
    table.handed(b"stray", 1, KEY, 0.0)


@pytest.mark.parametrize(
    "life",
    [
        twice_at_a_time,
        too_early,
        too_often,
        uncharged,
        settled_while_it_waits,
        charged_while_it_waits,
        charged_although_it_was_given_back,
        charged_to_nobody,
        stranger,
        event_of_a_failure,
        executing_after_the_drain,
        stray_executed,
    ],
)
def test_it_objects(table: Table, life: Callable[[Table], None]) -> None:
    with pytest.raises(Violation):
        life(table)
