"""The supervisor's plan: what it does about a state, and what holds in every history."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from busworker.supervisor.plan import (
    DUMP_SECONDS,
    NEVER,
    START_LIMIT,
    Action,
    BeginRoll,
    Dump,
    EndRoll,
    EndSurge,
    Exit,
    Kill,
    ReadBoard,
    Resume,
    RetireWorker,
    SendDrain,
    StartConsumer,
    StartWorker,
    TellPause,
    plan,
)
from busworker.supervisor.state import (
    CONSUMER_SETTLES,
    HURRIED_SETTLES,
    LONGEST_DELAY,
    STEADY,
    Backoff,
    Pool,
    Service,
    Worker,
)

NOW = 1000.0
GRACE = 25.0


def service(desired: int = 2) -> Service:
    return Service({"mail": Pool("mail", desired)}, GRACE)


def running(desired: int = 2) -> tuple[Service, Pool]:
    """A pool that is complete since NOW."""
    made = service(desired)
    pool = made.pools["mail"]
    consumer = pool.consumer_started(100, NOW)
    pool.consumer_ready(consumer)
    for slot in range(desired):
        pool.worker_started(slot, 101 + slot, NOW).started = True
    return made, pool


def actions(made: Service, now: float = NOW) -> list[Action]:
    return plan(made, now).actions


def killed(made: Service, now: float) -> dict[int, tuple[str, int]]:
    return {a.pid: (a.cause, a.number) for a in actions(made, now) if isinstance(a, Kill)}


def dump(made: Service, now: float) -> None:
    """Has workers write their stacks, as they must before anything else happens to them."""
    found = actions(made, now)
    assert found
    for action in found:
        assert isinstance(action, Dump)
        made.pools[action.pool].workers[action.slot].dumped_at = now


# Starting


def test_a_service_starts_its_consumer_before_its_workers() -> None:
    made = service()
    assert actions(made) == [StartConsumer("mail")]
    made.pools["mail"].consumer_started(100, NOW)
    assert actions(made) == [StartWorker("mail", 0), StartWorker("mail", 1)]


def test_a_complete_pool_needs_nothing() -> None:
    made, _ = running()
    assert plan(made, NOW) == ([], NEVER)


def test_a_worker_that_is_never_ready_is_killed_at_its_start_up_deadline() -> None:
    made, pool = running(1)
    pool.workers[0].started = False
    assert plan(made, NOW) == ([], NOW + START_LIMIT)
    assert killed(made, NOW + START_LIMIT) == {}
    dump(made, NOW + START_LIMIT)
    assert killed(made, NOW + START_LIMIT + DUMP_SECONDS) == {101: ("died", 0)}


# Deaths of workers


def test_a_worker_that_died_executing_is_replaced_at_once() -> None:
    made, pool = running(1)
    pool.worker_gone(0, NOW + 1, worked=True, number=3)
    assert actions(made, NOW + 1) == [StartWorker("mail", 0)]
    assert pool.worker_started(0, 201, NOW + 1).incarnation == 2


def test_a_worker_that_died_before_any_work_is_replaced_after_growing_delays() -> None:
    made, pool = running(1)
    now, delays = NOW, []
    for _ in range(12):
        pool.worker_gone(0, now, worked=False)
        assert not actions(made, now)
        due = plan(made, now).next_due
        delays.append(round(due - now, 3))
        now = due
        assert actions(made, now) == [StartWorker("mail", 0)]
        pool.worker_started(0, 200, now)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, *[LONGEST_DELAY] * 3]


def test_work_ends_the_growing_of_delays() -> None:
    _, pool = running(1)
    pool.worker_backoff = Backoff(failures=5)
    pool.worker_gone(0, NOW + 1, worked=True)
    pool.worker_started(0, 201, NOW + 1)
    pool.worker_gone(0, NOW + 2, worked=False)
    assert pool.due[0] == pytest.approx(NOW + 2.1)


def test_an_idle_worker_that_lived_long_is_no_start_that_fails() -> None:
    _, pool = running(1)
    pool.worker_backoff = Backoff(failures=5)
    pool.worker_gone(0, NOW + STEADY, worked=False)
    assert pool.due[0] == pytest.approx(NOW + STEADY + 0.1)


def test_workers_that_fail_together_share_one_delay() -> None:
    _, pool = running(4)
    for slot in range(4):
        pool.worker_gone(slot, NOW + 0.01 * slot, worked=False)
    assert pool.worker_backoff.failures == 1
    assert set(pool.due.values()) == {NOW + 0.1}


def test_channels_fail_apart() -> None:
    made = Service({"mail": Pool("mail", 1), "audit": Pool("audit", 1)}, GRACE)
    for pool in made.pools.values():
        pool.consumer_started(100, NOW)
        pool.worker_started(0, 101, NOW)
    made.pools["mail"].worker_gone(0, NOW, worked=False)
    made.pools["audit"].worker_gone(0, NOW, worked=True)
    assert actions(made) == [StartWorker("audit", 0)]


# Deaths of consumers


def test_a_consumer_that_dies_takes_its_workers_with_it_before_the_next_one_starts() -> None:
    made, pool = running()
    pool.consumer_gone(NOW, worked=True)
    assert killed(made, NOW) == {101: ("died", 0), 102: ("died", 0)}
    for slot in (0, 1):
        pool.workers[slot].killed = "died"
    for slot in (0, 1):
        assert actions(made) == []
        pool.worker_gone(slot, NOW, worked=True)
    assert actions(made) == [ReadBoard("mail")]
    pool.board_read()
    assert actions(made) == [StartConsumer("mail")]
    pool.consumer_started(200, NOW)
    assert actions(made) == [StartWorker("mail", 0), StartWorker("mail", 1)]


def test_consumers_that_die_before_any_work_wait_longer_each_time() -> None:
    made, pool = running(0)
    now, delays = NOW, []
    for _ in range(3):
        pool.consumer_gone(now, worked=False)
        pool.board_read()
        due = plan(made, now).next_due
        delays.append(round(due - now, 3))
        now = due
        pool.consumer_started(200, now)
    assert delays == [0.1, 0.2, 0.4]


# Limits


def test_a_worker_is_killed_for_the_message_whose_deadline_has_passed() -> None:
    made, pool = running()
    pool.workers[1].observe(7, NOW + 3)
    assert plan(made, NOW) == ([], NOW + 3)
    dump(made, NOW + 3)
    assert plan(made, NOW + 3) == ([], NOW + 3 + DUMP_SECONDS)
    assert killed(made, NOW + 3 + DUMP_SECONDS) == {102: ("time_limit", 7)}
    pool.workers[1].killed = "time_limit"
    assert not actions(made, NOW + 4)


def test_time_in_which_the_supervisor_was_away_does_not_count() -> None:
    made, pool = running()
    pool.workers[0].observe(7, NOW + 3)
    made.move(60.0)
    assert not actions(made, NOW + 62.9)
    dump(made, NOW + 63)
    made.move(10.0)
    assert not actions(made, NOW + 63 + DUMP_SECONDS)
    assert killed(made, NOW + 73 + DUMP_SECONDS) == {101: ("time_limit", 7)}


def test_the_next_message_has_a_deadline_of_its_own() -> None:
    made, pool = running()
    pool.workers[0].observe(7, NOW + 3)
    made.move(60.0)
    dump(made, NOW + 63)
    pool.workers[0].observe(8, NOW + 70)
    assert not actions(made, NOW + 69)
    dump(made, NOW + 70)
    assert killed(made, NOW + 70 + DUMP_SECONDS) == {101: ("time_limit", 8)}


def test_a_worker_is_killed_for_the_message_in_which_it_is_over_its_memory_limit() -> None:
    made, pool = running()
    pool.memory_limit = 1000
    pool.workers[0].observe(7, 0.0)
    pool.workers[0].rss = 1000
    assert not actions(made, NOW)
    pool.workers[0].rss = 1001
    dump(made, NOW)
    assert killed(made, NOW + DUMP_SECONDS) == {101: ("memory_limit", 7)}


def test_a_worker_that_is_over_its_memory_limit_between_messages_is_not_killed() -> None:
    made, pool = running()
    pool.memory_limit = 1000
    pool.workers[0].observe(7, 0.0)
    pool.workers[0].rss = 1001
    pool.workers[0].observe(0, 0.0)
    assert not actions(made, NOW)
    pool.workers[0].observe(8, 0.0)
    assert not actions(made, NOW)


# Scaling


def test_scaling_down_retires_the_last_slots_and_up_waits_until_they_are_free() -> None:
    made, pool = running(3)
    pool.desired = 1
    assert actions(made) == [RetireWorker("mail", 1), RetireWorker("mail", 2)]
    pool.workers[1].retiring = pool.workers[2].retiring = True
    pool.desired = 2
    assert actions(made) == []
    pool.worker_gone(1, NOW, worked=True)
    assert actions(made) == [StartWorker("mail", 1)]


def test_a_retired_worker_that_does_not_end_is_killed() -> None:
    made, pool = running(1)
    pool.desired = 0
    pool.workers[0].retiring = True
    pool.workers[0].finishing_at = NOW
    assert killed(made, NOW + GRACE) == {101: ("stopped", 0)}


# Stopping


def test_a_drain_ends_with_0_once_all_are_gone() -> None:
    made, pool = running()
    made.drain(NOW)
    assert actions(made) == [SendDrain("mail")]
    assert pool.consumer is not None
    pool.consumer.draining = pool.consumer.drained = True
    pool.consumer_gone(NOW + 1, worked=True)
    assert actions(made, NOW + 1) == []
    for slot in (0, 1):
        pool.worker_gone(slot, NOW + 1, worked=True)
    assert actions(made, NOW + 1) == [Exit(0)]


def test_a_drain_replaces_nobody() -> None:
    made, pool = running()
    made.drain(NOW)
    assert pool.consumer is not None
    pool.consumer.draining = True
    pool.worker_gone(0, NOW, worked=True)
    assert actions(made) == []


def test_when_the_grace_is_over_workers_are_stopped_and_then_consumers() -> None:
    made, pool = running()
    made.drain(NOW)
    assert pool.consumer is not None
    pool.consumer.draining = True
    assert plan(made, NOW).next_due == NOW + GRACE
    assert killed(made, NOW + GRACE) == {101: ("stopped", 0), 102: ("stopped", 0)}
    assert killed(made, NOW + GRACE + CONSUMER_SETTLES)[100] == ("stopped", 0)


def test_hurrying_kills_workers_at_once_and_exits_75() -> None:
    made, pool = running()
    made.drain(NOW)
    made.hurry(NOW + 1)
    assert killed(made, NOW + 1) == {101: ("stopped", 0), 102: ("stopped", 0)}
    assert 100 in killed(made, NOW + 1 + HURRIED_SETTLES)
    for slot in (0, 1):
        pool.workers[slot].killed = "stopped"
        pool.worker_gone(slot, NOW + 1, worked=True, number=slot)
    assert pool.spared == [(1, 1)]
    pool.consumer_gone(NOW + 2, worked=True)
    assert actions(made, NOW + 2) == [ReadBoard("mail")]
    pool.board_read()
    assert actions(made, NOW + 2) == [Exit(75)]


def test_a_renewal_is_a_drain() -> None:
    made, _ = running()
    made.renew(NOW)
    assert made.renewing
    assert actions(made) == [SendDrain("mail")]


def test_a_stop_during_a_renewal_is_a_stop_within_the_same_time() -> None:
    for stop in (Service.drain, Service.hurry):
        made, _ = running()
        made.renew(NOW)
        assert made.stop is not None
        until = made.stop.workers_at
        stop(made, NOW + 5)
        assert not made.renewing
        assert made.stop.workers_at == (until if stop is Service.drain else NOW + 5)


def test_trouble_during_a_renewal_does_not_end_it() -> None:
    made, _ = running()
    made.renew(NOW)
    made.fail(78, NOW + 1)
    assert (made.renewing, made.exit_code) == (True, 0)


def test_a_service_that_fails_exits_with_the_first_reason() -> None:
    made = service()
    made.fail(78, NOW)
    made.fail(69, NOW)
    made.hurry(NOW)
    assert actions(made) == [Exit(78)]


# Pauses


def told(pool: Pool) -> None:
    """The consumer was told whether to take messages, and has said that it obeys."""
    assert pool.consumer is not None
    pool.consumer.paused = pool.consumer.halted = pool.paused


def test_a_consumer_is_told_of_a_pause_once_and_of_its_end_once() -> None:
    made, pool = running()
    pool.pause(NEVER)
    assert plan(made, NOW) == ([TellPause("mail")], NEVER)
    assert not pool.halted
    told(pool)
    assert plan(made, NOW + 1e6) == ([], NEVER)
    assert pool.halted
    pool.resume()
    assert actions(made) == [TellPause("mail")]
    told(pool)
    assert plan(made, NOW) == ([], NEVER)


def test_a_pause_with_a_time_ends_by_itself_whoever_lives_then() -> None:
    for consumer in (True, False):
        made, pool = running()
        pool.pause(NOW + 600)
        told(pool)
        if not consumer:
            pool.consumer_gone(NOW, worked=True)
            pool.workers.clear()
            pool.board_read()
            pool.consumer_backoff.until = NEVER
        made.move(100.0)  # a suspended machine: an operator's clock went on
        assert plan(made, NOW) == ([], NOW + 600)
        assert actions(made, NOW + 600) == [Resume("mail")]


def test_a_new_consumer_is_born_paused() -> None:
    made, pool = running(0)
    pool.pause(NEVER)
    pool.consumer_gone(NOW, worked=True)
    pool.board_read()
    assert actions(made, NOW + 1) == [StartConsumer("mail")]
    pool.consumer_started(200, NOW + 1)
    assert actions(made, NOW + 1) == []
    assert pool.halted


def test_a_later_pause_replaces_an_earlier_one() -> None:
    made, pool = running()
    pool.pause(NOW + 10)
    pool.pause(NEVER)
    told(pool)
    assert plan(made, NOW + 10) == ([], NEVER)


def test_a_drain_needs_no_end_of_a_pause() -> None:
    made, pool = running()
    pool.pause(NOW)
    made.drain(NOW)
    assert actions(made) == [SendDrain("mail")]


# Rolling restarts


def obeyed(made: Service, now: float = NOW) -> list[Action]:
    """What the plan wants, carried out until it wants no more; workers come up, and go, only by the test."""
    done: list[Action] = []
    while found := actions(made, now):
        for action in found:
            assert len(done) < 50, "the plan has no end"
            done.append(action)
            roll(made, action, now)
    return done


def roll(made: Service, action: Action, now: float) -> None:
    """Records what becomes of an action of rolling restarts, and of those that they need."""
    match action:
        case StartWorker(name, slot):
            made.pools[name].worker_started(slot, 1000 + slot, now)
        case RetireWorker(name, slot):
            made.pools[name].workers[slot].retiring = True
        case BeginRoll(name):
            made.pools[name].begin_roll()
        case EndRoll(name):
            made.end_roll(name)
        case EndSurge(name):
            made.pools[name].surge = 0
        case _:
            raise AssertionError(action)


def comes_up(made: Service, slot: int) -> list[Action]:
    made.pools["mail"].workers[slot].started = True
    return obeyed(made)


def goes(made: Service, slot: int) -> list[Action]:
    made.pools["mail"].worker_gone(slot, NOW, worked=True)
    return obeyed(made)


def test_a_rolling_restart_starts_one_before_one_goes() -> None:
    made, pool = running(2)
    made.restart(["mail"])
    assert obeyed(made) == [BeginRoll("mail"), StartWorker("mail", 2)]
    assert comes_up(made, 2) == [RetireWorker("mail", 0)]
    assert goes(made, 0) == [StartWorker("mail", 0)]
    assert pool.complete
    assert comes_up(made, 0) == [RetireWorker("mail", 1)]
    assert goes(made, 1) == [StartWorker("mail", 1)]
    assert comes_up(made, 1) == [EndRoll("mail"), EndSurge("mail"), RetireWorker("mail", 2)]
    assert pool.complete
    assert goes(made, 2) == []
    assert {slot: worker.incarnation for slot, worker in pool.workers.items()} == {0: 2, 1: 2}
    assert (made.rolls, made.roll_failed) == ([], "")


def test_if_the_first_new_worker_fails_no_old_one_goes() -> None:
    made, pool = running(2)
    made.restart(["mail"])
    obeyed(made)
    failed = pool.worker_gone(2, NOW, worked=False)
    assert pool.spoils_roll(failed)
    made.give_up_roll("it failed")
    assert obeyed(made) == [EndSurge("mail")]
    assert [worker.incarnation for worker in pool.workers.values()] == [1, 1]
    assert pool.complete


def test_if_a_later_one_fails_the_one_more_stays_until_it_is_up() -> None:
    made, pool = running(1)
    made.restart(["mail"])
    obeyed(made)
    comes_up(made, 1)
    goes(made, 0)
    assert pool.spoils_roll(pool.worker_gone(0, NOW, worked=False))
    made.give_up_roll("it failed")
    assert obeyed(made) == []
    assert not pool.complete
    assert obeyed(made, NOW + 1) == [StartWorker("mail", 0)]
    assert comes_up(made, 0) == [EndSurge("mail"), RetireWorker("mail", 1)]


def test_only_a_new_worker_that_was_never_up_spoils_a_rolling_restart() -> None:
    made, pool = running(2)
    made.restart(["mail"])
    obeyed(made)
    assert not pool.spoils_roll(pool.worker_gone(1, NOW, worked=True)), "an old one"
    obeyed(made)
    pool.workers[2].started = True
    assert not pool.spoils_roll(pool.worker_gone(2, NOW, worked=True)), "one that was up"
    obeyed(made)
    pool.consumer_gone(NOW, worked=True)
    assert not pool.spoils_roll(pool.worker_gone(2, NOW, worked=False)), "one whose consumer died"


def test_channels_are_restarted_one_after_the_other_and_again_if_that_is_asked() -> None:
    made, pool = running(1)
    made.pools["audit"] = other = Pool("audit", 1)
    other.consumer_started(200, NOW)
    other.worker_started(0, 201, NOW).started = True
    made.restart(["mail", "audit"])
    assert obeyed(made) == [BeginRoll("mail"), StartWorker("mail", 1)]
    made.restart(["mail"])
    assert obeyed(made) == [EndSurge("mail"), BeginRoll("mail")], "its new worker is one of those to be replaced"
    assert comes_up(made, 1) == [RetireWorker("mail", 0)]
    goes(made, 0)
    assert comes_up(made, 0) == [RetireWorker("mail", 1)]
    goes(made, 1)
    assert comes_up(made, 1)[:3] == [EndRoll("mail"), EndSurge("mail"), BeginRoll("audit")]
    assert pool.incarnations == {0: 2, 1: 2}


def test_who_is_scaled_down_meanwhile_goes_once() -> None:
    made, pool = running(3)
    made.restart(["mail"])
    obeyed(made)
    pool.desired = 1
    assert comes_up(made, 3) == [RetireWorker("mail", 2), RetireWorker("mail", 3), RetireWorker("mail", 0)]


# Whatever happens


class Histories(RuleBasedStateMachine):
    """Anything may happen to a service at any time; the plan is always obeyed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.pids = 0
        self.exited: int | None = None

    @initialize(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=2))
    def begin(self, sizes: list[int]) -> None:
        pools = {f"c{n}": Pool(f"c{n}", size, memory_limit=1) for n, size in enumerate(sizes)}
        self.service = Service(pools, GRACE)
        self.obey()

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.obey()

    @rule(pick=st.randoms(use_true_random=False), worked=st.booleans(), number=st.integers(0, 3))
    def a_worker_dies(self, pick: object, worked: bool, number: int) -> None:
        living = [(pool, slot) for pool in self.service.pools.values() for slot in pool.workers]
        if living:
            pool, slot = pick.choice(living)  # type: ignore[attr-defined]
            if pool.spoils_roll(pool.worker_gone(slot, self.now, worked=worked, number=number)):
                self.service.give_up_roll("it failed")
        self.obey()

    @rule(pick=st.randoms(use_true_random=False), worked=st.booleans())
    def a_consumer_dies(self, pick: object, worked: bool) -> None:
        pool = pick.choice(list(self.service.pools.values()))  # type: ignore[attr-defined]
        pool.consumer_gone(self.now, worked=worked)
        self.obey()

    @rule(pick=st.randoms(use_true_random=False))
    def a_consumer_drains(self, pick: object) -> None:
        pool = pick.choice(list(self.service.pools.values()))  # type: ignore[attr-defined]
        if pool.consumer is not None and pool.consumer.draining:
            pool.consumer.drained = True
            pool.consumer_gone(self.now, worked=True)
        self.obey()

    @rule(desired=st.integers(1, 4), pick=st.randoms(use_true_random=False))
    def it_is_scaled(self, desired: int, pick: object) -> None:
        pick.choice(list(self.service.pools.values())).desired = desired  # type: ignore[attr-defined]
        self.obey()

    @rule(seconds=st.one_of(st.none(), st.just(NEVER), st.floats(0, 50)), pick=st.randoms(use_true_random=False))
    def it_is_paused_or_resumed(self, seconds: float | None, pick: object) -> None:
        pool = pick.choice(list(self.service.pools.values()))  # type: ignore[attr-defined]
        pool.paused_until = None if seconds is None else self.now + seconds
        self.obey()

    @rule(pick=st.randoms(use_true_random=False))
    def it_is_restarted(self, pick: object) -> None:
        self.service.restart([pick.choice(list(self.service.pools))])  # type: ignore[attr-defined]
        self.obey()

    @rule(limit=st.floats(0, 50), number=st.integers(1, 9), rss=st.integers(0, 2))
    def workers_execute(self, limit: float, number: int, rss: int) -> None:
        for pool in self.service.pools.values():
            for worker in pool.workers.values():
                worker.started = True
                worker.observe(number, self.now + limit)
                worker.rss = rss
        self.obey()

    @precondition(lambda self: self.service.stop is None)
    @rule()
    def it_is_told_to_stop(self) -> None:
        self.service.drain(self.now)
        self.obey()

    @precondition(lambda self: self.service.stop is not None and self.exited is None)
    @rule()
    def it_is_told_to_hurry(self) -> None:
        self.service.hurry(self.now)
        self.obey()

    @rule(late=st.floats(1, 100))
    def it_was_away(self, late: float) -> None:
        self.now += late
        self.service.move(late)
        self.obey()

    def obey(self) -> None:
        """Carries out the plan as the supervisor does; a killed process is reaped at once."""
        for _ in range(100):
            found = plan(self.service, self.now)
            assert found.next_due > self.now
            if not found.actions or self.exited is not None:
                return
            for action in found.actions:
                self.carry_out(action)
        raise AssertionError("the plan has no end")

    def carry_out(self, action: Action) -> None:
        self.pids += 1
        match action:
            case StartConsumer(name):
                assert self.service.stop is None
                assert self.service.pools[name].empty, "the last one has left nothing"
                self.service.pools[name].consumer_started(self.pids, self.now)
            case StartWorker(name, slot):
                pool = self.service.pools[name]
                assert self.service.stop is None
                assert pool.consumer is not None, "a worker is never started without a consumer"
                assert slot not in pool.workers, "two workers never live in one slot"
                before = pool.incarnations.get(slot, 0)
                assert pool.worker_started(slot, self.pids, self.now).incarnation == before + 1
            case RetireWorker(name, slot):
                pool = self.service.pools[name]
                assert slot not in pool.slots or pool.steady, "another is up before an old one goes"
                assert not pool.workers[slot].retiring, "nobody is told twice"
                pool.workers[slot].retiring = True
            case BeginRoll() | EndRoll() | EndSurge():
                roll(self.service, action, self.now)
            case Dump(name, slot):
                worker = self.service.pools[name].workers.get(slot)
                if worker is not None and worker.dumped_at is None:  # two limits may be over at once
                    worker.dumped_at = self.now
            case Kill():
                self.kill(action)
            case SendDrain(name):
                consumer = self.service.pools[name].consumer
                assert consumer is not None
                consumer.draining = True
            case TellPause(name):
                told(self.service.pools[name])
            case Resume(name):
                pool = self.service.pools[name]
                assert pool.paused_until is not None
                assert pool.paused_until <= self.now, "a pause is never cut short"
                pool.resume()
            case ReadBoard(name):
                pool = self.service.pools[name]
                assert pool.consumer is None
                assert not pool.workers, "the board is read only when nobody writes it any more"
                pool.board_read()
            case Exit(code):
                assert all(pool.empty for pool in self.service.pools.values()), "nobody is left behind"
                self.exited = code

    def kill(self, action: Kill) -> None:
        pool = self.service.pools[action.pool]
        if self.service.stop is not None:
            self.service.cut_short()
        if action.slot is None:
            pool.consumer_gone(self.now, worked=True)
        elif (worker := pool.workers.get(action.slot)) is not None:
            assert worker.pid == action.pid
            assert action.number == 0 or worker.dumped_at is not None, "its stacks come first"
            worker.killed = action.cause
            pool.worker_gone(action.slot, self.now, worked=True)

    @invariant()
    def workers_have_a_consumer(self) -> None:
        for pool in getattr(self, "service", Service({}, 0)).pools.values():
            if pool.workers and self.service.stop is None:
                assert pool.consumer is not None

    @invariant()
    def consumers_know_of_pauses(self) -> None:
        for pool in getattr(self, "service", Service({}, 0)).pools.values():
            if pool.consumer is not None and self.service.stop is None:
                assert pool.consumer.paused == pool.paused

    def teardown(self) -> None:
        if not hasattr(self, "service"):
            return
        self.service.drain(self.now)
        self.now += GRACE + CONSUMER_SETTLES + 101
        self.obey()
        self.now += DUMP_SECONDS  # a limit that ended in the same instant had stacks written first
        self.obey()
        assert self.exited is not None, "after a stop there is always an exit"
        forced = self.service.exit_code != 0
        assert self.exited == (75 if forced else 0)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_delays_never_overflow() -> None:
    backoff = Backoff(failures=10_000)
    backoff.failed(NOW)
    assert backoff.until == NOW + LONGEST_DELAY


def test_a_worker_is_observed_without_its_old_allowance() -> None:
    worker = Worker(0, 1, 100, NOW)
    worker.observe(1, NOW)
    worker.move(5.0)
    worker.observe(1, NOW)
    assert worker.moved == 5.0
    worker.observe(2, NOW)
    assert worker.moved == 0.0
