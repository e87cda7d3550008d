"""`async def` handlers beside each other in one worker: limits, crashes, drains, and what they publish."""

from collections import Counter

import pytest

from tests.support import Stage, wait_until
from tests.support.transports import on

APP = """
import asyncio, ctypes, os, signal, sys, time
from busworker import Bus, Message, Reject, Retry, RetryPolicy, Topic
from recording import record

bus = Bus("shop")
work, told = Topic("work", str), Topic("told", str)
beside = 0

async def wait_for(name):
    while not os.path.exists(name):
        await asyncio.sleep(0.005)

@bus.around_attempt
async def count(message):
    global beside
    beside += 1
    try:
        yield
    finally:
        beside -= 1

@bus.channel("pool", concurrency=10, processes=int(os.environ.get("PROCESSES", "1"))).subscribe(
    work, retry=RetryPolicy(3, delays=(0,)), time_limit=1, kill_after=0.5
)
async def handle(event, message):
    record("begin", event, message.attempt)
    record(f"beside{beside}", event, message.attempt)
    deed, _, _ = event.partition("-")
    match deed:
        case "crash":
            message.extend(60)
            await wait_for("crash")
            ctypes.string_at(0)
        case "exit":
            sys.exit(3)
        case "raise":
            raise ValueError("as told")
        case "interrupt":
            raise KeyboardInterrupt
        case "late":
            await asyncio.sleep(60)
        case "stubborn":
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    pass
        case "block":
            await wait_for("crash")
            time.sleep(60)
        case "wait":
            message.extend(60)
            await wait_for("go")
        case "tell":
            bus.publish(told, event)
            bus.publish(told, f"{event} at once", immediately=True)
            await asyncio.sleep(0.05)
            if message.attempt == 1:
                raise Retry(after=0)
        case "recycle":
            await asyncio.sleep(0.02)
    record("done", event, message.attempt)

@bus.channel("few", concurrency=5, max_messages=7).subscribe(told, retry=RetryPolicy(1))
async def note(event, message):
    await asyncio.sleep(0.01)
    record("told", event.replace(" ", "_"), message.attempt)
"""


@pytest.fixture
def shop(stage: Stage) -> Stage:
    stage.home.write("shop.py", APP)
    return stage


def done(stage: Stage) -> Counter[tuple[str, int]]:
    return Counter((line.event, line.attempt) for line in stage.record("done"))


@on("filesystem", "amqp")
def test_as_many_run_as_concurrency_says(shop: Stage) -> None:
    shop.start("shop")
    shop.publish("work", *[f"wait-{number}" for number in range(25)])
    wait_until(lambda: len(shop.record("begin")) == 10, 10, "ten that run")
    (channel,) = [one for name, one in shop.channels("shop").items() if name == "pool"]
    assert [worker["state"] for worker in channel["workers"]] == ["executing"]
    assert channel["in_flight"] >= 10
    shop.touch("go")
    shop.wait_empty("shop")
    assert done(shop) == {(f"wait-{number}", 1): 1 for number in range(25)}
    assert max(int(line.what[6:]) for line in shop.record() if line.what.startswith("beside")) == 10


def test_the_limit_cancels_the_late_one_alone(shop: Stage) -> None:
    service = shop.start("shop")
    shop.publish("work", "late", *[f"wait-{number}" for number in range(9)])
    (letter,) = wait_until(shop.dead, 30, lambda: service.stderr)
    assert (letter["reason"], letter["attempts"]) == ("time_limit", 3)
    assert "when its time limit was over" in letter["error"]["message"]
    assert "asyncio.sleep(60)" in letter["error"]["traceback"]
    shop.touch("go")
    shop.wait_empty("shop")
    assert done(shop) == {(f"wait-{number}", 1): 1 for number in range(9)}
    assert "killed" not in service.stderr


@pytest.mark.parametrize("deed", ["raise", "exit", "interrupt"])
def test_what_one_raises_is_its_own(shop: Stage, deed: str) -> None:
    service = shop.start("shop")
    shop.publish("work", deed, *[f"wait-{number}" for number in range(9)])
    (letter,) = wait_until(shop.dead, 30, lambda: service.stderr)
    assert (letter["reason"], letter["attempts"]) == ("exception", 3)
    shop.touch("go")
    shop.wait_empty("shop")
    assert done(shop) == {(f"wait-{number}", 1): 1 for number in range(9)}
    assert "died" not in service.stderr


@on("filesystem", "amqp")
def test_a_crash_fails_all_that_were_executing_and_they_are_retried_apart(shop: Stage) -> None:
    service = shop.start("shop")
    shop.publish("work", "crash", *[f"wait-{number}" for number in range(30)])
    wait_until(lambda: len(shop.record("begin")) == 10, 10, "ten that run")
    shop.touch("crash")
    service.wait_log("died, pid")
    shop.touch("go")
    shop.wait_empty("shop", 60)
    (letter,) = shop.dead()
    assert (letter["reason"], letter["attempts"], letter["body"]) == ("crash", 3, "crash"), service.stderr
    assert "Segmentation fault" in letter["error"]["traceback"]
    innocent = done(shop)
    assert {event for event, _ in innocent} == {f"wait-{number}" for number in range(30)}
    assert Counter(attempt for _, attempt in innocent.elements()) == {1: 21, 2: 9}
    again = [line for line in shop.record() if line.what.startswith("beside") and line.attempt > 1]
    assert {line.what for line in again} == {"beside1"}, "each that was beside the crash ran alone"


def test_one_that_blocks_the_loop_is_found(shop: Stage) -> None:
    service = shop.start("shop")
    shop.publish("work", "block", "late-0", "stubborn")
    shop.touch("crash")
    letters = wait_until(lambda: len(found := shop.dead()) == 3 and found, 60, lambda: service.stderr)
    assert {letter["reason"] for letter in letters} == {"time_limit"}
    assert all(letter["attempts"] == 3 for letter in letters)
    assert max(line.attempt for line in shop.record("begin")) == 3


def test_an_idle_worker_gets_work_while_the_others_take_long(shop: Stage) -> None:
    shop.home.write("slow.py", SLOW)
    shop.start("slow")
    shop.publish("work", "wait", "wait", "wait")
    wait_until(lambda: len(shop.record("begin")) == 3, 10, "three that run")
    shop.publish("work", *map(str, range(10)))
    wait_until(lambda: len(shop.record("done")) == 10, 10, "the fourth worker does the rest")
    shop.touch("go")
    shop.wait_empty("slow")


SLOW = """
import time
from busworker import Bus, Topic
from recording import record, wait_for

bus = Bus("slow")

@bus.channel("pool", processes=4).subscribe(Topic("work", str))
def handle(event):
    record("begin", event)
    if event == "wait":
        wait_for("go")
    else:
        time.sleep(0.05)
    record("done", event)
"""


def test_a_drain_lets_all_finish(shop: Stage) -> None:
    service = shop.start("shop")
    shop.publish("work", *[f"wait-{number}" for number in range(12)])
    wait_until(lambda: len(shop.record("begin")) == 10, 10, "ten that run")
    service.signal(15)
    service.wait_log("draining")
    shop.touch("go")
    assert service.wait(30) == 0
    assert len(done(shop)) == 10
    shop.start("shop")
    shop.wait_empty("shop")
    assert done(shop) == {(f"wait-{number}", 1): 1 for number in range(12)}


@on("filesystem", "amqp")
def test_what_is_published_beside_others_goes_with_its_own_outcome(shop: Stage) -> None:
    service = shop.start("shop")
    shop.publish("work", *[f"tell-{number}" for number in range(20)])
    shop.wait_empty("shop")
    told = Counter(line.event for line in shop.record("told"))
    assert told == {f"tell-{n}": 1 for n in range(20)} | {f"tell-{n}_at_once": 2 for n in range(20)}, service.stderr


def test_a_worker_is_recycled_when_nothing_runs_beside(shop: Stage) -> None:
    service = shop.start("shop")
    shop.publish("told", *map(str, range(60)))
    shop.wait_empty("shop")
    lines = shop.record("told")
    assert Counter((line.event, line.attempt) for line in lines) == {(str(n), 1): 1 for n in range(60)}
    assert all(7 <= count <= 11 for count in Counter(line.pid for line in lines).values() if count != 60 % 7), lines
    service.wait_log("max_messages=7 are done")
    assert "died" not in service.stderr
