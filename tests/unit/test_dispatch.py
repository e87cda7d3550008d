"""Who gets what, by the pure dispatcher."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from busworker.consumer.dispatch import CROWDED_SECONDS, MOST_AHEAD, Dispatcher, Held
from busworker.ipc.scoreboard import RING
from busworker.message import Delivery, read_envelope


def held(name: str) -> Held:
    delivery = Delivery(1, "busworker.t/s.c", "t", False, {"message_id": name}, {}, b"{}")
    return Held(delivery, read_envelope(delivery), name.encode(), 0)


def pool(workers: int, messages: int) -> Dispatcher:
    dispatcher = Dispatcher()
    for slot in range(workers):
        dispatcher.added(slot, 1, 100 + slot)
    for number in range(messages):
        dispatcher.take_in(held(f"m{number}"))
    return dispatcher


def test_an_idle_worker_gets_one_message_and_the_rest_waits() -> None:
    dispatcher = pool(2, 5)
    assert [(one.slot, one.key) for one in dispatcher.assign()] == [(0, b"m0"), (1, b"m1")]
    assert [one.key for one in dispatcher.waiting] == [b"m2", b"m3", b"m4"]
    assert dispatcher.assign() == []


def test_a_worker_with_short_handlers_is_handed_ahead_and_one_with_long_handlers_is_not() -> None:
    dispatcher = pool(1, 500)
    (first,) = dispatcher.assign()
    assert dispatcher.finished(0, 1, first.number, 0.000_01) is first
    dispatcher.entry_closed(first)
    assert len(dispatcher.assign()) == MOST_AHEAD
    for one in list(dispatcher.workers[0].handed.values()):
        dispatcher.finished(0, 1, one.number, 0.5)
        dispatcher.entry_closed(one)
    assert dispatcher.ahead == 1
    assert len(dispatcher.assign()) == 1


def test_messages_that_only_waited_in_a_dead_workers_link_come_first_again_in_their_order() -> None:
    dispatcher = pool(1, 500)
    (first,) = dispatcher.assign()
    dispatcher.finished(0, 1, first.number, 0.000_01)
    dispatcher.assign()
    left = dispatcher.removed(0, 1)
    assert [one.key for one in left[:3]] == [b"m1", b"m2", b"m3"]
    dispatcher.wait_again(left[1:])
    assert [one.key for one in list(dispatcher.waiting)[:2]] == [b"m2", b"m3"]
    assert all(one.slot == -1 and one.number == 0 for one in dispatcher.waiting)


def test_an_outcome_of_an_earlier_incarnation_or_of_an_unknown_message_is_ignored() -> None:
    dispatcher = pool(1, 1)
    (first,) = dispatcher.assign()
    assert dispatcher.finished(0, 2, first.number, 0.1) is None
    assert dispatcher.finished(0, 1, first.number + 1, 0.1) is None
    assert dispatcher.finished(3, 1, first.number, 0.1) is None
    assert dispatcher.removed(0, 2) == []
    assert dispatcher.removed(0, 1) == [first]
    assert dispatcher.finished(0, 1, first.number, 0.1) is None


def test_a_retired_worker_gets_nothing_more_and_is_named_once_it_is_idle() -> None:
    dispatcher = pool(2, 4)
    one, _ = dispatcher.assign()
    dispatcher.retire(0, 1)
    assert dispatcher.idle_retired() == []
    dispatcher.finished(0, 1, one.number, 0.1)
    assert [slot for slot, _ in dispatcher.idle_retired()] == [0]
    assert all(handed.slot == 1 for handed in dispatcher.assign())
    assert dispatcher.window == 1


def test_what_a_retired_worker_still_executes_takes_no_room_from_the_others() -> None:
    dispatcher = pool(workers=2, messages=2)
    dispatcher.assign()
    dispatcher.added(2, 1, 102)
    dispatcher.retire(0, 1)
    assert (dispatcher.window, dispatcher.prefetch) == (3, 3)
    assert dispatcher.has_room(unsettled=2)
    dispatcher.finished(0, 1, 1, 1.0)
    assert dispatcher.window == 2


def test_an_entry_that_is_still_open_is_not_used_again() -> None:
    dispatcher = pool(1, RING + 10)
    for _ in range(RING):
        (one,) = dispatcher.assign()[:1]
        dispatcher.finished(0, 1, one.number, 1.0)
    assert dispatcher.assign() == []
    one.number, one.slot = 1, 0
    dispatcher.entry_closed(one)
    assert [again.number for again in dispatcher.assign()] == [RING + 1]


def test_one_that_takes_long_keeps_its_entry_while_the_others_go_round() -> None:
    dispatcher = Dispatcher(2)
    dispatcher.added(0, 1, 100)
    dispatcher.take_in(held("long"))
    (long,) = dispatcher.assign()
    numbers: list[int] = []
    for count in range(2 * RING):
        dispatcher.take_in(held(f"m{count}"))
        (one,) = dispatcher.assign()
        numbers.append(one.number)
        assert dispatcher.finished(0, 1, one.number, 1.0) is one
        dispatcher.entry_closed(one)
    assert len(set(numbers)) == len(numbers)
    assert all(number % RING != long.number % RING for number in numbers)


@given(st.lists(st.sampled_from(["take", "assign", "finish", "die", "replace"]), max_size=200), st.integers(1, 4))
def test_no_message_is_ever_in_two_places_or_gone(steps: list[str], workers: int) -> None:
    dispatcher, count, done, incarnation = pool(workers, 0), 0, 0, 1
    for step in steps:
        if step == "take":
            dispatcher.take_in(held(f"m{count}"))
            count += 1
        elif step == "assign":
            dispatcher.assign()
        elif step == "replace":
            incarnation += 1
            dispatcher.wait_again(
                dispatcher.removed(0, dispatcher.workers[0].incarnation) if 0 in dispatcher.workers else []
            )
            dispatcher.added(0, incarnation, 7)
        else:
            for slot, worker in list(dispatcher.workers.items()):
                if step == "die":
                    dispatcher.wait_again(dispatcher.removed(slot, worker.incarnation))
                    dispatcher.added(slot, worker.incarnation + 1, 9)
                elif worker.handed:
                    one = dispatcher.finished(slot, worker.incarnation, next(iter(worker.handed)), 0.000_1)
                    assert one is not None
                    dispatcher.entry_closed(one)
                    done += 1
        places = [
            *dispatcher.waiting,
            *(one for worker in dispatcher.workers.values() for one in worker.handed.values()),
        ]
        assert len({one.key for one in places}) == len(places) == count - done


@given(
    st.lists(st.one_of(st.booleans(), st.just("assign"), st.integers(0, 9)), max_size=200),
    st.integers(1, 3),
    st.integers(2, 4),
)
def test_nothing_is_beside_what_wants_to_be_alone_and_nobody_starves(
    steps: list[bool | str | int], workers: int, concurrency: int
) -> None:
    dispatcher, count, done = Dispatcher(concurrency), 0, 0
    for slot in range(workers):
        dispatcher.added(slot, 1, 100 + slot)

    def finish(pick: int) -> int:
        busy = [(slot, number) for slot, worker in dispatcher.workers.items() for number in worker.handed]
        if not busy:
            return 0
        slot, number = busy[pick % len(busy)]
        one = dispatcher.finished(slot, 1, number, 1.0)
        assert one is not None
        dispatcher.entry_closed(one)
        return 1

    for step in steps:
        if step == "assign":
            dispatcher.assign()
        elif isinstance(step, bool):
            one = held(f"m{count}")
            one.alone = step
            dispatcher.take_in(one)
            count += 1
        elif isinstance(step, int):
            done += finish(step)
        for worker in dispatcher.workers.values():
            assert len(worker.handed) <= concurrency
            if any(one.alone for one in worker.handed.values()):
                assert len(worker.handed) == 1
    for _ in range(count):  # each turn at least one is handed out, and one ends
        dispatcher.assign()
        done += finish(0)
    assert done == count
    assert not dispatcher.holds


def test_while_one_waits_to_be_alone_the_other_workers_go_on() -> None:
    dispatcher = Dispatcher(2)
    for slot in range(2):
        dispatcher.added(slot, 1, 100 + slot)
    for number in range(4):
        dispatcher.take_in(held(f"m{number}"))
    dispatcher.assign()
    alone = held("alone")
    alone.alone = True
    dispatcher.take_in(alone)
    dispatcher.take_in(held("more"))
    assert dispatcher.assign() == []
    numbers = list(dispatcher.workers[1].handed)
    assert dispatcher.finished(1, 1, numbers[0], 1.0)
    assert dispatcher.assign() == [], "the worker with the least to do is kept free"
    assert dispatcher.finished(1, 1, numbers[1], 1.0)
    assert [(one.key, one.slot) for one in dispatcher.assign()] == [(b"alone", 1)]
    assert dispatcher.finished(0, 1, next(iter(dispatcher.workers[0].handed)), 1.0)
    assert [(one.key, one.slot) for one in dispatcher.assign()] == [(b"more", 0)]
    assert not dispatcher.is_hungry


def pool_with_lonely(workers: int, concurrency: int, lonely: int) -> Dispatcher:
    dispatcher = Dispatcher(concurrency)
    for slot in range(workers):
        dispatcher.added(slot, 1, 100 + slot)
    for number in range(lonely):
        one = held(f"alone{number}")
        one.alone = True
        dispatcher.take_in(one)
    return dispatcher


def test_many_that_want_to_be_alone_leave_a_worker_and_room_to_the_others() -> None:
    dispatcher = pool_with_lonely(3, 2, 20)
    assert [one.slot for one in dispatcher.assign()] == [0, 1]
    assert dispatcher.is_hungry
    assert dispatcher.window >= 20 + 2, "those that wait don't fill the pool"
    for number in range(3):
        dispatcher.take_in(held(f"m{number}"))
    assert [one.slot for one in dispatcher.assign()] == [2, 2]
    assert not dispatcher.is_hungry


def test_a_single_worker_takes_those_that_want_to_be_alone_as_well() -> None:
    dispatcher = pool_with_lonely(1, 2, 2)
    dispatcher.take_in(held("other"))
    for key in (b"alone0", b"alone1", b"other"):
        (one,) = dispatcher.assign()
        assert one.key == key
        assert dispatcher.finished(0, 1, one.number, 1.0) is one


def test_a_prefetch_follows_the_window_in_steps_of_four() -> None:
    dispatcher = pool(3, 10)
    assert dispatcher.prefetch == dispatcher.window == 3
    first, *_ = dispatcher.assign()
    dispatcher.finished(0, 1, first.number, 0.001)
    assert (dispatcher.window, dispatcher.prefetch) == (60, 48)
    dispatcher = Dispatcher()
    assert dispatcher.prefetch == 1, "before there are workers"


def test_what_was_delivered_while_handlers_were_short_goes_back_once_they_are_long() -> None:
    dispatcher = pool(2, 100)
    dispatcher.assign()
    assert dispatcher.window == 2
    assert dispatcher.surplus(10.0) == []
    assert dispatcher.crowded_until == 10.0 + CROWDED_SECONDS
    assert dispatcher.surplus(10.5) == []
    back = dispatcher.surplus(10.0 + CROWDED_SECONDS)
    assert [one.key for one in back] == [f"m{number}".encode() for number in range(4, 100)]
    assert [one.key for one in dispatcher.waiting] == [b"m2", b"m3"]
    assert dispatcher.surplus(20.0) == []
    assert dispatcher.crowded_until == float("inf")


def test_what_the_pool_works_off_soon_stays() -> None:
    dispatcher = pool(2, 10)
    first, _ = dispatcher.assign()
    dispatcher.surplus(10.0)
    dispatcher.finished(0, 1, first.number, 0.000_01)
    assert dispatcher.window > 10
    assert dispatcher.surplus(10.0 + CROWDED_SECONDS) == []
    assert len(dispatcher.waiting) == 8
