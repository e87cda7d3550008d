"""A consumer that is forgotten by its broker notices, and one that has nothing to do doesn't."""

from busworker.consumer.watchdog import QUIET, SURE, Watchdog


def test_quiet_with_nothing_ready_is_fine() -> None:
    watchdog = Watchdog()
    watchdog.heard(0.0)
    assert watchdog.next_at == QUIET
    assert not watchdog.is_forgotten(0, QUIET)
    assert watchdog.next_at == 2 * QUIET


def test_messages_that_stay_ready_say_that_we_are_forgotten() -> None:
    watchdog = Watchdog()
    watchdog.heard(0.0)
    assert not watchdog.is_forgotten(3, QUIET), "they may be under way"
    assert watchdog.next_at == QUIET + SURE
    assert watchdog.is_forgotten(3, QUIET + SURE)


def test_a_delivery_in_between_clears_the_suspicion() -> None:
    watchdog = Watchdog()
    watchdog.heard(0.0)
    watchdog.is_forgotten(3, QUIET)
    watchdog.heard(QUIET + 1)
    assert not watchdog.is_forgotten(3, 3 * QUIET)
