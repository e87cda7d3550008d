"""A service under a random schedule of kills, stops, a full disk and handlers that fail, while others publish to it.

On RabbitMQ the broker is killed and stopped as well, and its connections are cut. `tox -e soak` runs more of it for
longer. By hand: CHAOS_SEEDS (`7`, `1-20`), CHAOS_MESSAGES, CHAOS_FAULTS, CHAOS_TARGETS (`broker connections`: no others
are harmed); CHAOS_KEEP names a folder for the logs and the history of those that fail.
"""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from tests.support import Command, Home
from tests.support.chaos.breaking import Breakable
from tests.support.chaos.driver import Chaos, Wishes, holds
from tests.support.proxy import Proxy
from tests.support.rabbitmq import Node
from tests.support.transports import on

REPOSITORY = Path(__file__).parents[2]
APART = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Name spaces for mounts, so that a disk can be filled, and for processes, so that all end with the driver."""
MESSAGES = int(os.environ.get("CHAOS_MESSAGES", "1000"))
FAULTS = int(os.environ.get("CHAOS_FAULTS", str(max(11, MESSAGES // 250))))
"""Eleven: each kind once."""


def _seeds(text: str) -> list[int]:
    """`1-3,7` is 1, 2, 3, 7."""
    ranges = ([int(end) for end in part.split("-")] for part in text.split(","))
    return list(chain.from_iterable(range(ends[0], ends[-1] + 1) for ends in ranges))


SEEDS = _seeds(os.environ.get("CHAOS_SEEDS", "3"))
AMQP_SEEDS = _seeds(os.environ.get("CHAOS_SEEDS", "15"))
"""In this one the broker is killed and stopped, its connections are cut three times, and our processes are killed."""
AMQP_MESSAGES = int(os.environ.get("CHAOS_MESSAGES", "300"))
AMQP_FAULTS = int(os.environ.get("CHAOS_FAULTS", str(max(9, AMQP_MESSAGES // 250))))
TARGETS = tuple(os.environ.get("CHAOS_TARGETS", "").split())


@pytest.mark.timeout(120 + MESSAGES // 20)
@pytest.mark.parametrize("seed", SEEDS)
def test_chaos_loses_nothing_and_every_execution_is_accounted_for(seed: int) -> None:
    apart = subprocess.run([*APART, "true"], capture_output=True, check=False).returncode == 0
    wishes = {
        "seed": seed,
        "messages": MESSAGES,
        "faults": FAULTS,
        "disk": apart,
        "scheme": "filesystem" if seed % 3 else "memory",
        "targets": [target for target in TARGETS if target not in ("broker", "connections")],
    }
    program = [sys.executable, "-m", "tests.support.chaos", json.dumps(wishes)]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [*(APART if apart else ()), *program],
        cwd=REPOSITORY,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as driver:
        try:
            told, _ = driver.communicate()
        finally:
            driver.terminate()
    print(told)
    assert driver.returncode == 0, told
    if not apart:
        pytest.skip("NO FULL DISK WAS TRIED: mounting a file system needs root. All else was, and passed.")


@on("victim-proxied")
@pytest.mark.timeout(120 + AMQP_MESSAGES // 10)
@pytest.mark.parametrize("seed", AMQP_SEEDS)
def test_chaos_on_amqp_loses_nothing_and_every_execution_is_accounted_for(
    command: Command, home: Home, victim: Node, proxy: Proxy, seed: int
) -> None:
    wishes = Wishes(seed, AMQP_MESSAGES, AMQP_FAULTS, disk=False, scheme="amqp", targets=TARGETS)
    chaos = Chaos(wishes, command, home, Breakable(victim, proxy))
    assert holds(chaos, home)
    assert TARGETS or {"broker", "connections"} < {fault.target for fault in chaos.faults}
