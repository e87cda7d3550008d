"""Time in which nobody could work is held against no handler, and a clock that is set harms nothing."""

import os
import signal
import time

import pytest

from tests.support import Service, Stage, wait_until
from tests.support.clock import Clock

LIMIT, KILL_AFTER = 1.2, 0.4
STOPPED = LIMIT + KILL_AFTER + 1.5
"""Seconds: longer than every limit, and than the second from which on a supervisor takes itself for suspended."""

APP = f"""
import contextlib, time
from busworker import Bus, RetryPolicy, Topic
from recording import record, wait_for

bus = Bus("shop")
pool = bus.channel("pool", processes=3)

@pool.subscribe(Topic("work", str), retry=RetryPolicy(2, delays=(0,)), time_limit={LIMIT}, kill_after={KILL_AFTER})
def handle(event, message):
    record("begin", event, message.attempt)
    match event:
        case "hang":
            time.sleep(600)
        case "stubborn":
            with contextlib.suppress(BaseException):
                time.sleep(600)
            time.sleep(600)
        case _:
            wait_for("gate")
    record("end", event, message.attempt)
"""
HOUR = 3600
CLOCKED = """
from busworker import Bus, Retry, RetryPolicy, Topic
from recording import record, wait_for

bus = Bus("shop")
pool = bus.channel("pool", processes=2)

@pool.subscribe(Topic("work", str), retry=RetryPolicy(2), time_limit=100)
def handle(event, message):
    record("begin", event, message.attempt)
    if event == "long":
        wait_for("gate")
    elif message.attempt == 1:
        raise Retry(after=float(event))
    record("end", event, message.attempt)
"""
ORDERS = {"supervisor": ("supervisor", "consumer", "worker"), "workers": ("worker", "consumer", "supervisor")}
"""Who continues first."""


@pytest.mark.parametrize(
    ("broker", "first"), [*(("filesystem", first) for first in ORDERS), ("amqp", "workers")], indirect=["broker"]
)
def test_no_innocent_is_killed_or_charged_after_the_whole_tree_was_stopped(stage: Stage, first: str) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    stage.publish("work", "one", "two", "three")
    stage.wait_recorded(3)
    stop_all(service, ORDERS[first])
    stage.wait_recorded(3)
    wait_until(lambda: "all deadlines move" in service.stderr, 5, "the supervisor's word")
    time.sleep(LIMIT / 3)  # they have hardly run yet, and may go on
    stage.touch("gate")
    stage.wait_recorded(6)
    pool = stage.wait_empty("shop")["pool"]
    assert (pool["processed"], pool["failed"], pool["dead"]) == (3, 0, 0), service.stderr
    assert {line.attempt for line in stage.record()} == {1}
    assert service.terminate() == 0


@pytest.mark.parametrize("deed", ["hang", "stubborn"])
def test_limits_still_hold_after_the_whole_tree_was_stopped(stage: Stage, deed: str) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    stage.publish("work", deed)
    stage.wait_recorded(1)
    stop_all(service, ORDERS["workers"])
    stage.wait_recorded(2, timeout=LIMIT + KILL_AFTER + 3)
    service.wait_log(": dead", timeout=LIMIT + KILL_AFTER + 3)
    (letter,) = stage.dead()
    assert (letter["reason"], letter["attempts"]) == ("time_limit", 2)
    assert service.terminate() == 0


def test_a_handler_is_limited_though_the_supervisor_is_stopped(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    stage.publish("work", "hang")
    stage.wait_recorded(1)
    os.kill(service.pid, signal.SIGSTOP)
    try:
        stage.wait_recorded(2, timeout=3 * LIMIT + 3)
    finally:
        os.kill(service.pid, signal.SIGCONT)
    assert [line.attempt for line in stage.record("begin")] == [1, 2]
    service.wait_log(": dead")
    assert service.terminate() == 0


def test_a_clock_set_an_hour_forth_and_back_ends_nothing_and_retries_still_come(stage: Stage) -> None:
    clock = Clock(stage.home.path)
    stage.home.write("shop.py", CLOCKED)
    service = stage.start("shop", env=clock.env)
    processes = {member.pid for member in service.tree()}
    stage.publish("work", "long", "60")
    wait_until(lambda: waiting(stage) == 1, 20, "a retry in a minute")
    clock.set(HOUR)
    stage.wait_recorded(4)  # its time has come
    stage.publish("work", "1")
    stage.wait_recorded(7)
    stage.publish("work", "120")
    wait_until(lambda: waiting(stage) == 1, 20, "a retry in two minutes")
    clock.set(0)
    stage.publish("work", "2")
    stage.wait_recorded(11)  # what fails from now on waits as long as it should
    assert waiting(stage) == 1  # but this one for the old clock: due times are wall-clock times
    clock.set(HOUR + 121)
    stage.wait_recorded(13)
    stage.touch("gate")
    pool = stage.wait_empty("shop")["pool"]
    assert (pool["processed"], pool["failed"], pool["dead"]) == (5, 4, 0)
    assert sorted((line.event, line.attempt) for line in stage.record("begin")) == [
        *((event, attempt) for event in ("1", "120", "2", "60") for attempt in (1, 2)),
        ("long", 1),
    ]
    assert {member.pid for member in service.tree()} == processes
    assert service.terminate() == 0


def waiting(stage: Stage) -> int:
    """How many messages wait for their retry."""
    return stage.channels("shop")["pool"]["waiting"]


def stop_all(service: Service, order: tuple[str, ...]) -> None:
    """Stops every process for longer than the limits; those of each role continue a moment before the next."""
    tree = [member for member in service.tree() if member.role in order]
    members = sorted(tree, key=lambda member: order.index(member.role))
    for member in members:
        os.kill(member.pid, signal.SIGSTOP)
    time.sleep(STOPPED)
    for role in order:
        for member in members:
            if member.role == role:
                os.kill(member.pid, signal.SIGCONT)
        time.sleep(0.1)
