"""What pools count for metrics, in memory that processes share."""

import os
import signal

from busworker.ipc.tally import BOUNDS, FIELDS, Tally


def test_what_is_counted_is_kept_apart_by_subscription_and_by_what_came_of_it() -> None:
    tally = Tally(2)
    for number, field in enumerate(FIELDS):
        for _ in range(number + 1):
            tally.count(1, field)
    assert tally.counted(1) == {field: number + 1 for number, field in enumerate(FIELDS)}
    assert set(tally.counted(0).values()) == {0}


def test_times_are_added_up_over_the_slots_that_were_used() -> None:
    tally = Tally(2)
    assert tally.handler_times(0) == ([0] * (len(BOUNDS) + 1), 0.0)
    tally.use(4)
    tally.use(1)
    tally.measure(0, 1, 0.001, None)
    tally.measure(4, 1, 0.0011, 5000.0)
    tally.measure(4, 0, 1.5, 0.0)
    assert tally.handler_times(1).buckets[:3] == [1, 1, 0], "a bound belongs to its bucket"
    assert tally.waiting_times(1) == ([0] * len(BOUNDS) + [1], 5000.0)
    assert tally.handler_times(0).sum == 1.5
    assert tally.waiting_times(0).buckets[0] == 1


def test_what_a_killed_process_has_counted_is_there_and_its_successor_goes_on() -> None:
    tally = Tally(1)
    tally.use(0)
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            tally.count(0, "processed")
            tally.measure(0, 0, 0.5, 2.0)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
    assert tally.counted(0)["processed"] == 2
    assert (tally.handler_times(0).sum, tally.waiting_times(0).sum) == (1.0, 4.0)
