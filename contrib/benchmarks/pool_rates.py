"""Rates of a whole service beside bare apsw loops on the same disk, in one run.

    python contrib/benchmarks/pool_rates.py [--messages 20000] [--rounds 3] [--folder /var/tmp]

Each round measures: publishing with receipts from one process; `busworker start` with two workers and a handler that
does nothing, draining that backlog (fetch, hand out, handle, settle, all synced); the time from a publish to its
handler's start on an idle bus; and from `start` to the first handled message. The bare loops are those of
`engine_rates.py`. Compare the ratios of one run; the absolute figures are those of this machine and moment.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from engine_rates import Bare

from busworker import Bus, Message, Topic, places
from busworker.ipc import control

EVENT = {"user_id": 42, "email": "somebody@example.org", "note": "x" * 92}
BROKER, TIMES = "BUSWORKER_BROKER", "POOL_RATES_TIMES"
WAIT = 120.0

noop = Topic("bench.noop", dict[str, object])
timed = Topic("bench.timed", float)
nowhere = Topic("bench.nowhere", float)
bus = Bus("bench")


@bus.channel("noop", processes=2).subscribe(noop)
def nothing(event: dict[str, object]) -> None:
    """Does nothing."""


@bus.channel("timed").subscribe(timed)
def note_time(published: float, message: Message) -> None:
    """Writes down how long the message took."""
    took = time.time() - published
    with Path(os.environ[TIMES]).open("a") as file:
        file.write(f"{took}\n")


class Service:
    """`busworker start` of this file, on a bus of its own."""

    def __init__(self, folder: Path) -> None:
        self.url = f"filesystem://{folder}/bus"
        self.times = folder / "times"
        self.times.touch()
        self._folder = folder
        os.environ[BROKER], os.environ[TIMES] = self.url, str(self.times)
        os.environ["XDG_STATE_HOME"] = os.environ["XDG_RUNTIME_DIR"] = str(folder)

    def start(self) -> subprocess.Popen[bytes]:
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "busworker", "start", __file__], stderr=log)

    def start_once(self) -> None:
        """Starts and stops it, so that its queues are there."""
        process = self.start()
        self.run_until(self.runs, pause=0.02)
        process.terminate()
        process.wait(WAIT)

    def runs(self) -> bool:
        return self.channel(1).get("state") == "running"

    def channel(self, number: int) -> dict[str, Any]:
        path = places.socket_path(places.instance_key("bench", self.url, "default"))
        try:
            answer: Any = control.ask(path, "status", {}, 10)
        except control.NotRunning:
            return {"processed": 0}
        found: dict[str, Any] = answer["channels"][number]
        return found

    def timed(self, count: int) -> bool:
        return self.times.read_text().count("\n") >= count

    def run_until(self, done: Callable[[], bool], *, pause: float) -> None:
        until = time.monotonic() + WAIT
        while not done():
            if time.monotonic() > until:
                raise SystemExit(f"nothing for {WAIT:g} s; see {self._folder / 'log'}")
            time.sleep(pause)


def publish(count: int) -> float:
    """Messages a second, from the first publish to the last receipt, of a publisher that is connected already."""
    sender = Bus("sender")
    sender.publish(nowhere, 0.0).wait(WAIT)
    begun = time.perf_counter()
    receipts = [sender.publish(noop, EVENT) for _ in range(count)]
    sender.flush(WAIT)
    took = time.perf_counter() - begun
    assert all(receipt.state == "confirmed" for receipt in receipts)
    sender.close()
    return count / took


def drain(service: Service, count: int) -> tuple[float, float]:
    """Messages a second over the middle of the backlog; and seconds from `start` to the first handled message."""
    begun = time.monotonic()
    process = service.start()
    marks: list[tuple[float, int]] = []

    def handled() -> bool:
        marks.append((time.monotonic(), service.channel(0)["processed"]))
        return marks[-1][1] >= count

    service.run_until(handled, pause=0.02)
    first = next(mark for mark in marks if mark[1])
    process.terminate()
    process.wait(WAIT)
    return (count - first[1]) / (marks[-1][0] - first[0]), first[0] - begun


def latency(service: Service, count: int) -> list[float]:
    """Seconds from a publish to the handler's start, one message at a time on an idle bus."""
    process = service.start()
    sender = Bus("sender")
    service.run_until(service.runs, pause=0.02)
    for number in range(1, count + 1):
        sender.publish(timed, time.time())
        service.run_until(partial(service.timed, number), pause=0.005)
    sender.close()
    process.terminate()
    process.wait(WAIT)
    return sorted(float(line) for line in service.times.read_text().splitlines())


def bare(folder: Path, count: int) -> tuple[float, float]:
    """Messages a second published, and claimed and deleted, by the loops with nothing around them."""
    loops = Bare(folder)
    rates: list[float] = []
    for loop in (loops.publish, loops.consume):
        begun = time.perf_counter()
        loop(count)
        rates.append(count / (time.perf_counter() - begun))
    return rates[0], rates[1]


def main() -> None:
    """Runs the rounds and prints a table, the medians last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    given = parser.parse_args()
    ratios: list[tuple[float, float]] = []
    for number in range(given.rounds):
        folder = Path(tempfile.mkdtemp(prefix="pool-rates-", dir=given.folder))
        service = Service(folder)
        service.start_once()
        bare_publish, bare_consume = bare(folder, given.messages)
        published = publish(given.messages)
        drained, started = drain(service, given.messages)
        times = latency(service, 200)
        ratios.append((published / bare_publish, drained / bare_consume))
        print(
            f"round {number + 1}: publish {published:,.0f}/s of {bare_publish:,.0f} bare = {ratios[-1][0]:.2f}; "
            f"drain {drained:,.0f}/s of {bare_consume:,.0f} bare = {ratios[-1][1]:.2f}; "
            f"latency p50 {times[len(times) // 2] * 1000:.2f} p99 {times[len(times) * 99 // 100] * 1000:.2f} ms; "
            f"start to first handled at most {started:.2f} s",
            flush=True,
        )
        shutil.rmtree(folder)
    print(f"median ratio: publish {statistics.median(r[0] for r in ratios):.2f} (to reach 0.4), ", end="")
    print(f"drain {statistics.median(r[1] for r in ratios):.2f} (to reach 0.4)")


if __name__ == "__main__":
    main()
