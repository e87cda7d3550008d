"""A service under a random schedule of kills, stops, a full disk and handlers that fail, while others publish to it.

`tox -e soak` runs more of it for longer. By hand: CHAOS_SEEDS (`7`, `1-20`), CHAOS_MESSAGES, CHAOS_FAULTS;
CHAOS_KEEP names a folder for the logs and the history of those that fail.
"""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

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


SEEDS = _seeds(os.environ.get("CHAOS_SEEDS", "1-3"))


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
    }
    program = [sys.executable, "-m", "tests.support.chaos.driver", json.dumps(wishes)]
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
