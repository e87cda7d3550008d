"""Every delivery that is done is acknowledged once, contiguous ones as one, the others soon."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from busworker.broker.acks import DELAY, Acks


def test_contiguous_deliveries_go_as_one() -> None:
    acks = Acks()
    for tag in (2, 1, 3):
        acks.done(tag, 0.0)
    sending = acks.take(0.0)
    assert (sending.upto, sending.single, sending.tags) == (3, [], [1, 2, 3])
    assert acks.next_due == float("inf")


def test_one_behind_a_gap_waits_a_moment_and_goes_alone() -> None:
    acks = Acks()
    acks.done(2, 1.0)
    assert acks.take(1.0).tags == []
    assert acks.next_due == 1.0 + DELAY
    sending = acks.take(1.0 + DELAY)
    assert (sending.upto, sending.single, sending.tags) == (0, [2], [2])
    acks.done(1, 2.0)
    assert acks.take(2.0).upto == 1
    acks.done(3, 3.0)
    assert acks.take(3.0).upto == 3, "what went alone is no gap any more"


def test_at_once_leaves_nothing() -> None:
    acks = Acks()
    for tag in (1, 3, 4):
        acks.done(tag, 0.0)
    sending = acks.take(0.0, at_once=True)
    assert (sending.upto, sending.single, sending.tags) == (1, [3, 4], [1, 3, 4])


def test_what_was_given_back_is_no_gap() -> None:
    acks = Acks()
    acks.returned(1)
    acks.done(2, 0.0)
    assert (sending := acks.take(0.0)).upto == 2
    assert sending.tags == [2]
    assert acks.settled == 2


def test_one_that_stays_open_costs_no_memory_for_those_behind_it() -> None:
    acks = Acks()
    tracemalloc.start()
    for tag in range(2, 100_002):
        acks.done(tag, 0.0)
        if not tag % 10:
            acks.take(0.0, at_once=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert acks.settled == 100_000 - 1
    assert peak < 64 * 1024
    acks.done(1, 0.0)
    assert acks.take(0.0).upto == 100_001


@given(st.permutations(range(1, 20)), st.sets(st.integers(1, 19)), st.data())
def test_a_broker_is_told_of_each_delivery_exactly_once(order: list[int], back: set[int], data: st.DataObject) -> None:
    """The broker is played: an acknowledgement of an unknown tag would close the channel (AMQP 0-9-1, 1.8.3.13)."""
    acks = Acks()
    unacked = set(range(1, 20))
    now = 0.0
    done: set[int] = set()
    told: list[int] = []

    def send(*, at_once: bool) -> None:
        sending = acks.take(now, at_once=at_once)
        covered = {tag for tag in unacked if tag <= sending.upto}
        assert covered <= done, "acknowledges what isn't done"
        unacked.difference_update(covered)
        for tag in sending.single:
            unacked.remove(tag)
        told.extend(sending.tags)

    for tag in order:
        now += data.draw(st.sampled_from([0.0, 0.001, 0.01]))
        if tag in back:
            unacked.remove(tag)
            acks.returned(tag)
        else:
            done.add(tag)
            acks.done(tag, now)
        if data.draw(st.booleans()):
            send(at_once=False)
    send(at_once=True)
    assert sorted(told) == sorted(done)
    assert unacked == set()
    assert acks.settled == 19
