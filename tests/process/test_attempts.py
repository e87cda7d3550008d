"""Attempts: `max_attempts` executions whatever ends them, the cause in the dead letter, neighbours not charged."""

from typing import NamedTuple

import pytest

from tests.support import Stage
from tests.support.transports import on

APP = """
import ctypes, os, signal, sys, time
from contextlib import suppress
from busworker import Bus, Message, Reject, Retry, RetryPolicy, Topic
from recording import record

bus = Bus("shop")
released, work = Topic("released", str), Topic("work", str)

class Hopeless(Exception):
    pass

def do(deed):
    match deed:
        case "exception": raise ValueError("as told")
        case "retry": raise Retry("later", after=0)
        case "exit": sys.exit(3)
        case "os_exit": os._exit(0)
        case "sigkill": os.kill(os.getpid(), signal.SIGKILL)
        case "segfault": ctypes.string_at(0)
        case "hang": time.sleep(600)
        case "stubborn":
            with suppress(BaseException):
                time.sleep(600)
            time.sleep(600)
        case "reject": raise Reject("never")
        case "hopeless": raise Hopeless("as told")

# All in one transaction, and from another pool: so they wait when the first is handed out. The first five are so
# short that the pool then hands out ahead: the others are in the worker's link already when the deed is done.
@bus.channel("source").subscribe(released)
def release(deed):
    for event in (*range(5), deed, *range(5, 25)):
        bus.publish(work, str(event))

@bus.channel("pool").subscribe(
    work, retry=RetryPolicy(3, delays=(0,), dead_on=(Hopeless,)), time_limit=0.3, kill_after=0.3
)
def handle(event, message):
    if event.isdigit():
        message.extend(60)  # however slow the machine is
        record("good", event, message.attempt)
    else:
        record("bad", event, message.attempt)
        do(event)
"""


class End(NamedTuple):
    """What the dead letter must tell."""

    reason: str
    error: str
    attempts: int = 3
    signal: str | None = None
    exit_code: int | None = None


@on("filesystem", "amqp")
@pytest.mark.parametrize(
    ("deed", "end"),
    [
        ("exception", End("exception", "ValueError")),
        ("retry", End("exception", "Retry")),
        ("exit", End("exception", "SystemExit")),
        ("os_exit", End("crash", "Exit", exit_code=0)),
        ("sigkill", End("crash", "SIGKILL", signal="SIGKILL")),
        ("segfault", End("crash", "SIGSEGV", signal="SIGSEGV")),
        ("hang", End("time_limit", "TimeLimitExceeded")),
        ("stubborn", End("time_limit", "TimeLimitExceeded", signal="SIGKILL")),
        ("reject", End("rejected", "Reject", attempts=1)),
        ("hopeless", End("exception", "Hopeless", attempts=1)),
    ],
)
def test_a_failing_message_is_executed_so_often_and_nothing_else_is_charged(stage: Stage, deed: str, end: End) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    stage.publish("released", deed)
    service.wait_log(": dead")
    (letter,) = stage.dead()
    assert (letter["subscription"], letter["body"]) == ("work/shop.pool", deed)
    worker = letter["worker"]
    told = End(letter["reason"], letter["error"]["type"], letter["attempts"], worker["signal"], worker["exit_code"])
    assert told == end
    pool = stage.wait_empty("shop")["pool"]
    assert (pool["dead"], pool["processed"], pool["failed"]) == (1, 25, end.attempts)
    handled = stage.record()
    assert [line.attempt for line in handled if line.what == "bad"] == list(range(1, end.attempts + 1))
    good = [(int(line.event), line.attempt) for line in handled if line.what == "good"]
    assert sorted(good) == [(number, 1) for number in range(25)]
    assert [line.event for line in handled[:7]] == [*"01234", deed, "5"]
    assert service.terminate() == 0


ALARM = """
import ctypes, time
from busworker import Bus, RetryPolicy, Topic
from recording import record

bus = Bus("shop")

# One worker: what runs second runs where the first has armed its alarm.
@bus.channel("pool").subscribe(Topic("work", str), retry=RetryPolicy(1), time_limit=0.5)
def handle(event, message):
    record("begin", event, message.attempt)
    if event == "long":
        message.extend(60)
        record("left", str(ctypes.CDLL(None).sleep(3)), message.attempt)
"""


def test_the_limit_of_one_message_does_not_interrupt_the_next(stage: Stage) -> None:
    stage.home.write("shop.py", ALARM)
    service = stage.start("shop")
    stage.publish("work", "short", "long")
    stage.wait_recorded(3)
    # sleep(3) returns the seconds it didn't sleep, when a signal has interrupted it.
    assert [line.event for line in stage.record("left")] == ["0"]
    assert service.terminate() == 0


CLOSING = """
import os
from busworker import Bus, RetryPolicy, Topic
from recording import record

bus = Bus("shop")

@bus.channel("pool").subscribe(Topic("work", str), retry=RetryPolicy(1))
def handle(event, message):
    record("begin", event, message.attempt)
    if event == "close":
        os.closerange(0, 1000)
"""


def test_what_waits_behind_a_handler_that_closes_every_descriptor_is_not_charged(stage: Stage) -> None:
    stage.home.write("shop.py", CLOSING)
    service = stage.start("shop")
    neighbours = [f"n{number}" for number in range(220)]
    stage.publish("work", *neighbours[:200], "close", *neighbours[200:])
    stage.wait_recorded(221)
    stage.wait_empty("shop")
    assert sorted(line.event for line in stage.record("begin")) == sorted([*neighbours, "close"])
    assert [(letter["body"], letter["reason"]) for letter in stage.dead()] == [("close", "crash")]
    assert service.terminate() == 0
