"""Messages that kill whoever runs them, or never end: `max_attempts` executions whatever it costs, and no innocents."""

import os
import signal
import time
from collections import Counter

import pytest

from tests.support import Service, Stage, alive, wait_until
from tests.support.transports import EVERYWHERE, on

HEALTHY = 200
PATIENCE = 60.0
"""Seconds for what takes five on an idle machine."""
LIMIT, KILL_AFTER = 1.0, 0.5

APP = f"""
import contextlib, ctypes, os, re, signal, time
import psutil
from busworker import Bus, RetryPolicy, Topic
from recording import record, wait_for

bus = Bus("shop")

def consumer():
    return next(c.pid for c in psutil.Process(os.getppid()).children() if "consumer shop.pool" in " ".join(c.cmdline()))

def do(deed):
    match deed:
        case "sigkill": os.kill(os.getpid(), signal.SIGKILL)
        case "sigsegv": ctypes.string_at(0)
        case "sigabrt": os.abort()
        case "exit": os._exit(1)
        case "raise": raise ValueError(deed)
        case "memory": raise MemoryError
        case "system_exit": raise SystemExit
        case "sigstkflt": os.kill(os.getpid(), signal.SIGSTKFLT)
        case "quit": os.kill(os.getpid(), signal.SIGQUIT)
        case "base": raise BaseException(deed)
        case "child": os.kill(os.getpid(), signal.SIGKILL)
        case "parent": os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)
        case "consumer": os.kill(consumer(), signal.SIGKILL); time.sleep(600)
        case "sleep": time.sleep(600)
        case "busy":
            while True: pass
        case "gil": ctypes.PyDLL(None).sleep(60)
        case "regex": re.match("(a+)+$", "a" * 40 + "b")
        case "swallow":
            while True:
                with contextlib.suppress(BaseException):
                    time.sleep(600)
        case "deaf":
            for number in set(signal.valid_signals()) - {{signal.SIGKILL, signal.SIGSTOP}}:
                with contextlib.suppress(OSError):
                    signal.signal(number, signal.SIG_IGN)
            time.sleep(600)

pool = bus.channel("pool", processes=2)

@pool.subscribe(
    Topic("work", str), retry=RetryPolicy(3, delays=(0,)), time_limit={LIMIT}, kill_after={KILL_AFTER}
)
def handle(event, message):
    if event.isdigit():
        message.extend(60)
        record("good", event, message.attempt)
        return
    record("bad", event, message.attempt)
    deeds = event.split(".")[-1].split("-")
    do(deeds[(message.attempt - 1) % len(deeds)])

@bus.channel("gated", processes=2).subscribe(Topic("gated", int), time_limit=None)
def gated(event, message):
    record("begin", event, message.attempt)
    wait_for("gate")
    record("end", event, message.attempt)
"""

CAUSES = {
    "sigkill": ("crash", "SIGKILL"),
    "sigsegv": ("crash", "SIGSEGV"),
    "sigabrt": ("crash", "SIGABRT"),
    "sigstkflt": ("crash", "SIGSTKFLT"),
    "exit": ("crash", "Exit"),
    "raise": ("exception", "ValueError"),
    "memory": ("exception", "MemoryError"),
    "system_exit": ("exception", "SystemExit"),
    "base": ("exception", "BaseException"),
    "quit": ("crash", "SIGQUIT"),
}


def shop(stage: Stage, *args: str) -> Service:
    stage.home.write("shop.py", APP)
    return stage.start("shop", *args)


def executions(stage: Stage, what: str) -> Counter[tuple[str, int]]:
    return Counter((line.event, line.attempt) for line in stage.record(what))


def once_each(numbers: range) -> Counter[tuple[str, int]]:
    return Counter((str(number), 1) for number in numbers)


def three_times(*events: str) -> Counter[tuple[str, int]]:
    return Counter((event, attempt) for event in events for attempt in (1, 2, 3))


@EVERYWHERE
def test_ten_poison_messages_at_the_head_of_the_queue_cost_the_healthy_ones_nothing(stage: Stage) -> None:
    assert shop(stage).terminate() == 0  # its queues are there from now on
    stage.publish("work", *CAUSES, *map(str, range(HEALTHY)))
    service = stage.start("shop")
    stage.wait_empty("shop", PATIENCE)
    assert executions(stage, "good") == once_each(range(HEALTHY))
    assert executions(stage, "bad") == three_times(*CAUSES)
    told = {letter["body"]: (letter["reason"], letter["error"]["type"]) for letter in stage.dead()}
    assert told == CAUSES
    assert {letter["attempts"] for letter in stage.dead()} == {3}
    assert service.terminate() == 0


@pytest.mark.parametrize(
    ("broker", "deeds"),
    [
        ("filesystem", "parent-child-parent"),
        ("filesystem", "child-parent-child"),
        ("filesystem", "parent-parent-parent"),
        ("filesystem", "consumer-parent-consumer"),
        ("amqp", "child-parent-consumer"),
    ],
    indirect=["broker"],
)
def test_a_message_that_kills_child_and_parent_by_turns_is_executed_three_times(stage: Stage, deeds: str) -> None:
    # Alone: what another worker has just finished is rightly charged when the consumer is killed before it settles.
    service = shop(stage)
    stage.publish("work", deeds)

    def over() -> bool:
        nonlocal service
        if service.exit_code is not None:
            service = stage.command.start("start", "shop")
        return ": dead: crash" in service.stderr

    wait_until(over, PATIENCE, lambda: f"a dead letter\n{service.stderr}")
    stage.wait_empty("shop")
    assert executions(stage, "bad") == three_times(deeds)
    letters = [(letter["body"], letter["reason"], letter["attempts"]) for letter in stage.dead()]
    assert letters == [(deeds, "crash", 3)], service.stderr
    stage.publish("work", *map(str, range(20)))
    stage.wait_empty("shop")
    assert executions(stage, "good") == once_each(range(20))
    assert service.terminate() == 0


@pytest.mark.parametrize(
    ("broker", "deed"),
    [
        *(("filesystem", deed) for deed in ("sleep", "busy", "gil", "regex", "swallow", "deaf")),
        ("amqp", "gil"),
    ],
    indirect=["broker"],
)
def test_a_handler_that_hangs_is_ended_whatever_it_does_and_the_other_worker_goes_on(stage: Stage, deed: str) -> None:
    service = shop(stage)
    stage.publish("work", deed, *map(str, range(100)))
    stage.wait_recorded(101)
    assert executions(stage, "good") == once_each(range(100))
    service.wait_log(": dead: time_limit", 3 * (LIMIT + KILL_AFTER) + 20)
    assert executions(stage, "bad") == three_times(deed)
    (letter,) = stage.dead()
    assert (letter["reason"], letter["error"]["type"], letter["attempts"]) == ("time_limit", "TimeLimitExceeded", 3)
    wait_until(lambda: len(service.tree("worker", "shop.pool/1")) == 1, 10, "its replacement")
    assert service.terminate() == 0


@on("filesystem", "amqp")
def test_a_second_term_ends_a_handler_of_any_length_at_once_and_charges_nothing(stage: Stage) -> None:
    service = shop(stage, "--grace", "60")
    stage.publish("gated", 1, 2, 3)
    stage.wait_recorded(2)
    processes = service.tree()
    service.signal(signal.SIGTERM)
    service.wait_log("draining")
    service.signal(signal.SIGTERM)
    asked = time.monotonic()
    assert service.wait(5) == 75
    assert time.monotonic() - asked < 3
    wait_until(lambda: not any(alive(one.pid) for one in processes), 1, "the end of all processes")
    stage.touch("gate")
    again = stage.start("shop")
    stage.wait_recorded(2 + 2 * 3)
    stage.wait_empty("shop")
    cut = Counter((line.event, line.attempt) for line in stage.record("begin")[:2])
    assert executions(stage, "begin") == once_each(range(1, 4)) + cut
    assert executions(stage, "end") == once_each(range(1, 4))
    assert again.terminate() == 0


@on("filesystem", "amqp")
def test_a_term_with_two_executing_and_two_hundred_waiting_runs_none_of_these(stage: Stage) -> None:
    service = shop(stage)
    stage.publish("gated", *range(202))
    stage.wait_recorded(2)
    service.signal(signal.SIGTERM)
    wait_until(lambda: stage.channels("shop")["gated"]["ready"] == 200, 20, "the others back in their queue")
    stage.touch("gate")
    assert service.wait() == 0
    assert len(stage.record("begin")) == len(stage.record("end")) == 2
    again = stage.start("shop")
    stage.wait_empty("shop", PATIENCE)
    assert executions(stage, "end") == executions(stage, "begin") == once_each(range(202))
    assert again.terminate() == 0


@on("filesystem", "amqp")
@pytest.mark.parametrize("tree", [False, True], ids=["supervisor", "tree"])
def test_after_a_kill_nobody_is_left_and_the_successor_takes_over_at_once(stage: Stage, tree: bool) -> None:
    service = shop(stage)
    stage.publish("gated", *range(20))
    stage.wait_recorded(2)
    old = {member.pid for member in service.tree()}
    if tree:
        service.kill_tree()
    else:
        os.kill(service.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, old - {service.pid})), 1, "the end of all processes")
    stage.touch("gate")
    before = stage.recorded()
    again = stage.command.start("start", "shop")
    stage.wait_recorded(before + 1, timeout=5)
    stage.wait_empty("shop", PATIENCE)
    assert not {line.pid for line in stage.record()[before:]} & old
    assert len(stage.record("end")) == 20
    attempts = executions(stage, "begin")
    assert {event for event, attempt in attempts if attempt == 2} == {line.event for line in stage.record()[:2]}
    assert max(attempt for _, attempt in attempts) == 2
    assert again.terminate() == 0
