"""Kill -9 at random, of each kind of process, while messages are handled: nothing lost, and each cut execution counted.

A kill comes when a random number of executions has begun, so that a seed names its moments, not its milliseconds.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest

from tests.support import Home, Service, Stage, wait_until
from tests.support.stage import Line
from tests.support.transports import EVERYWHERE, on

MESSAGES = 2000
CHANNELS = ("audit", "welcome")
WORKERS = 2
KILLS = 10
TARGETS = ("worker", "consumer", "supervisor", "tree")
CUT = {"worker": 1, "consumer": WORKERS, "supervisor": WORKERS * len(CHANNELS), "tree": WORKERS * len(CHANNELS)}
"""How many execute at most in what a kill ends."""
ACKS_CUT = {"worker": 0, "consumer": 4, "supervisor": 4 * len(CHANNELS), "tree": 4 * len(CHANNELS)}
"""How many acknowledgements die at most with the consumers that a kill ends, where they go over a socket."""
GONE = 1.0
"""Seconds in which all processes follow a killed supervisor."""

# Handlers of 2 ms: no shorter ones, so that nothing is handed out ahead and a worker has one unsettled message.
APP = """
import time
from busworker import Bus, Topic
from recording import record

bus = Bus("shop")
placed = Topic("order.placed", int)

@bus.channel("audit", processes=2).subscribe(placed)
def audit(event, message):
    record("audit", event, message.attempt)
    time.sleep(0.002)
    record("audit-end", event, message.attempt)

@bus.channel("welcome", processes=2).subscribe(placed)
def welcome(event, message):
    record("welcome", event, message.attempt)
    time.sleep(0.002)
    record("welcome-end", event, message.attempt)
"""
GATED = """
from busworker import Bus, Topic
from recording import record, wait_for

bus = Bus("shop")

@bus.channel("pool", processes=2).subscribe(Topic("order.placed", int))
def note(event, message):
    record("begin", event, message.attempt)
    wait_for("gate")
    record("end", event, message.attempt)
"""
PUBLISHER = """
import os, sys
from busworker import Bus, Topic
bus = Bus("till")
placed = Topic("order.placed", int)
confirmed = os.open("confirmed", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
number = int(sys.argv[1])
while True:
    receipts = [bus.publish(placed, number + n) for n in range(20)]
    for receipt in receipts:
        receipt.wait(10)
        os.write(confirmed, f"{number}\\n".encode())
        number += 1
"""


@pytest.mark.parametrize(
    ("broker", "targets", "seed"),
    [
        *(("filesystem", (target,), seed) for seed, target in enumerate(TARGETS[:3], 1)),
        ("filesystem", TARGETS, 5),
        ("memory", TARGETS, 6),
        ("amqp", ("worker",), 7),
        ("amqp", TARGETS, 8),
        ("classic", TARGETS, 9),
    ],
    indirect=["broker"],
    ids=lambda given: "-".join(given) if isinstance(given, tuple) else str(given),
)
def test_kills_lose_nothing_and_each_cut_execution_is_charged(
    stage: Stage, targets: tuple[str, ...], seed: int
) -> None:
    stage.home.write("shop.py", APP)
    chance = random.Random(seed)
    service = stage.start("shop")
    stage.publish("order.placed", *range(MESSAGES))
    most = unacknowledged = 0
    for begun in sorted(chance.sample(range(50, 2 * MESSAGES * len(CHANNELS) * 8 // 10), KILLS)):
        stage.wait_recorded(begun)
        target = chance.choice(targets)
        service = strike(stage, service, target, chance)
        most += CUT[target]
        unacknowledged += ACKS_CUT[target] if stage.amqp else 0
    stage.wait_recorded(2 * MESSAGES * len(CHANNELS), 60)
    wait_until(lambda: all_ended(stage), 60, lambda: f"the end of all\n{service.stderr}")
    channels = stage.wait_empty("shop")
    assert {name: channel["dead"] for name, channel in channels.items()} == dict.fromkeys(CHANNELS, 0)
    attempts = attempts_of(stage.record(*CHANNELS))
    assert len(attempts) == MESSAGES * len(CHANNELS)
    # On AMQP an acknowledgement may die with its consumer (docs/explanation/guarantees.md).
    uncharged = sum(len(told) - len(set(told)) for told in attempts.values())
    assert uncharged <= unacknowledged, "executed again, and not charged"
    assert sum(len(told) - 1 for told in attempts.values()) <= most + unacknowledged
    assert sum(max(told) - 1 for told in attempts.values()) <= most + unacknowledged, "charged more than was cut"
    assert service.terminate() == 0


@EVERYWHERE
def test_what_waited_behind_a_killed_consumer_runs_as_soon_as_the_next_one_is_up(stage: Stage) -> None:
    stage.home.write("shop.py", GATED)
    service = stage.start("shop")
    stage.publish("order.placed", *range(10))
    stage.wait_recorded(2)
    (consumer,) = service.tree("consumer")
    os.kill(consumer.pid, signal.SIGKILL)
    wait_until(lambda: service.stderr.count("consumer shop.pool ready") == 2, 20, "the next consumer")
    stage.touch("gate")
    stage.wait_recorded(2 + 2 * 8, timeout=3)  # at most a second late, even if nobody is woken
    stage.wait_recorded(2 + 2 * 10)
    stage.wait_empty("shop")
    begun = sorted((line.event, line.attempt) for line in stage.record("begin"))
    cut = [line.event for line in stage.record("begin")[:2]]
    assert begun == sorted([(str(number), 1) for number in range(10)] + [(event, 2) for event in cut])
    assert len(stage.record("end")) == 10
    assert service.terminate() == 0


@on("filesystem", "amqp")
def test_what_a_killed_publisher_had_confirmed_is_handled(stage: Stage, home: Home) -> None:
    home.write("shop.py", APP)
    script, confirmed = home.write("till.py", PUBLISHER), home.write("confirmed", "")
    stage.start("shop")
    chance = random.Random(7)
    for number in range(6):
        enough = confirmed.stat().st_size + chance.randrange(1, 3000)
        process = subprocess.Popen([sys.executable, script, str(number * 100_000)], env=home.env, cwd=home.path)
        try:
            wait_until(partial(_larger, confirmed, enough), 20, "that many confirmed numbers")
        finally:
            process.kill()
            process.wait()
    stage.wait_empty("shop", 60)
    attempts = attempts_of(stage.record(*CHANNELS))
    wanted = [(name, number) for number in confirmed.read_text().split() for name in CHANNELS]
    assert len(wanted) > 100
    assert [one for one in wanted if one not in attempts] == []
    assert [one for one, told in attempts.items() if told != [1]] == []


def strike(stage: Stage, service: Service, target: str, chance: random.Random) -> Service:
    """Kills one process of that kind, or all; returns the service that runs then."""
    match target:
        case "tree":
            service.kill_tree()
        case "supervisor":
            service.kill()
            wait_until(lambda: not service.tree(), GONE, lambda: f"the end of {service.tree()}")
        case _:
            victim = chance.choice(wait_until(lambda: service.tree(target), 10, f"a {target}"))
            with contextlib.suppress(ProcessLookupError):  # another kill's
                os.kill(victim.pid, signal.SIGKILL)
            return service
    return stage.command.start("start", "shop")


def all_ended(stage: Stage) -> bool:
    return all(len(numbers_of(stage, f"{name}-end")) == MESSAGES for name in CHANNELS)


def numbers_of(stage: Stage, what: str) -> set[str]:
    return {line.event for line in stage.record(what)}


def attempts_of(lines: list[Line]) -> dict[tuple[str, str], list[int]]:
    """For each message of each channel the attempts that were begun, in their order."""
    found: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for line in lines:
        found[line.what, line.event].append(line.attempt)
    return found


def _larger(path: Path, size: int) -> bool:
    return path.stat().st_size > size
