"""A rolling restart and a HUP while messages come all the time: none is lost, none is charged, hardly one waits."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from tests.support import Stage, wait_until
from tests.support.transports import EVERYWHERE

RATE = int(os.environ.get("LOAD_RATE", "500"))
"""Messages a second; each phase takes at least a second."""
APP = """
import time
from busworker import Bus, Topic
from recording import record
bus = Bus("shop")

@bus.channel("pool", processes=3).subscribe(Topic("work", int))
def work(event, message):
    record(f"{VERSION}:{time.time():.4f}", event, message.attempt)
"""
LOAD = """
import os, sys, time
from busworker import Bus, Topic
topic, bus, rate = Topic("work", int), Bus("till"), int(sys.argv[1])
receipts = [bus.publish(topic, 0).wait(30)]
begun = time.monotonic()
while not os.path.exists("enough"):
    time.sleep(max(0.0, begun + len(receipts) / rate - time.monotonic()))
    receipts.append(bus.publish(topic, len(receipts)))
bus.flush(60)
print(sum(receipt.state == "confirmed" for receipt in receipts), len(receipts))
"""


def app(version: str) -> str:
    return f"VERSION = {version!r}\n{APP}"


@contextmanager
def load(stage: Stage) -> Iterator[subprocess.Popen[str]]:
    """A process that publishes numbers at the rate until there is a file `enough`, and then tells how many."""
    args = [sys.executable, "-c", LOAD, str(RATE)]
    with subprocess.Popen(args, env=stage.home.env, cwd=stage.home.path, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def handled(stage: Stage) -> dict[str, list[float]]:
    """When messages were handled, by the version of the code."""
    found: dict[str, list[float]] = {}
    for line in stage.record():
        version, _, moment = line.what.partition(":")
        found.setdefault(version, []).append(float(moment))
    return found


def longest_gap(times: list[float]) -> float:
    """Seconds without a handled message."""
    return max(after - before for before, after in pairwise(sorted(times)))


@EVERYWHERE
def test_restarts_and_reloads_under_load_lose_and_charge_nothing(stage: Stage) -> None:
    stage.home.write("shop.py", app("old"))
    service = stage.start("shop")
    before = {worker.pid for worker in service.tree("worker")}
    with load(stage) as publishing:
        stage.wait_recorded(RATE)
        assert stage.command.run("restart").stdout == "restarted pool\n"
        assert before.isdisjoint(worker.pid for worker in service.tree("worker"))
        stage.wait_recorded(stage.recorded() + RATE)
        stage.home.write("shop.py", app("newer"))
        service.signal(signal.SIGHUP)
        wait_until(lambda: "newer" in handled(stage), 60, lambda: f"the new code\n{service.stderr}")
        stage.wait_recorded(stage.recorded() + RATE)
        stage.touch("enough")
        confirmed, count = map(int, publishing.communicate(timeout=60)[0].split())
    assert confirmed == count
    stage.wait_recorded(count)
    pool = stage.wait_empty("shop")["pool"]
    assert sorted((int(line.event), line.attempt) for line in stage.record()) == [
        (number, 1) for number in range(count)
    ]
    assert (pool["dead"], pool["failed"]) == (0, 0)
    times = handled(stage)
    gaps = longest_gap(times["old"]), longest_gap([max(times["old"]), min(times["newer"])])
    print(f"longest time without a handled message: {gaps[0]:.3f} s in a restart, {gaps[1]:.3f} s in a reload")
    assert gaps[0] < 1.0
    assert service.terminate() == 0
