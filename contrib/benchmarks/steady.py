"""Whether a service under load stays as it is: memory and descriptors of its supervisor and consumers over minutes.

    python contrib/benchmarks/steady.py [--minutes 10] [--rate 300] [--every 5] [--bound 1024] [--folder /var/tmp]
        [--samples FILE]

A service with two channels handles what this program publishes. Most handlers take a millisecond and publish an
event for the other channel; one in a hundred raises and is retried or becomes a dead letter, one in five hundred ends
its process. The first tenth of the time is not judged: caches fill. Exit 1: a process was replaced or has more
descriptors, or its memory grew by more than the bound (KiB) from the first quarter to the last, in their medians.
What is judged is a process's anonymous memory (Linux), shared with its relatives or not. PSS and USS are shown too, but
grow without anything being allocated: when one of two processes writes into a page that they have shared since the
fork, both have one of their own. The bound leaves room for SQLite's page cache, which fills up with the first backlog.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from busworker import Bus, RetryPolicy, Topic

POLICY = RetryPolicy(max_attempts=3, delays=(0, 1))
BATCH = 0.1
"""Seconds of messages that are published at once."""
READY = 30.0
JUDGED = ("supervisor", "consumer")

placed, shipped = Topic("order.placed", int), Topic("order.shipped", int)
bus = Bus("steady")


@bus.channel("orders", processes=2).subscribe(placed, retry=POLICY, time_limit=10)
def ship(number: int) -> None:
    """Fails now and then, else publishes."""
    time.sleep(0.001)
    if number % 500 == 17 and random.random() < 0.5:
        os._exit(3)
    if number % 100 == 11:
        raise ValueError(f"order {number} can't be shipped" + "!" * random.randrange(500))
    bus.publish(shipped, number)


@bus.channel("parcels", processes=2).subscribe(shipped, retry=POLICY, time_limit=10)
def deliver(number: int) -> None:
    """Takes a millisecond."""
    time.sleep(0.001)


class Sample(NamedTuple):
    """What one process has at one time; memory in KiB."""

    at: float
    anonymous: int
    rss: int
    pss: int
    uss: int
    descriptors: int


class Service:
    """`busworker start` of this file, and what its processes have."""

    def __init__(self, folder: Path) -> None:
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "busworker", "start", __file__], stderr=log)
        self.samples: defaultdict[str, list[Sample]] = defaultdict(list)
        self._began = time.monotonic()

    def members(self) -> dict[str, int]:
        """The pids of the judged processes, by their titles."""
        supervisor = psutil.Process(self.process.pid)
        found: dict[str, int] = {}
        for process in (supervisor, *supervisor.children()):
            try:
                title = " ".join(process.cmdline()).strip()
            except psutil.NoSuchProcess:
                continue
            if title.startswith(tuple(f"busworker: {role}" for role in JUDGED)):
                found[f"{title.removeprefix('busworker: ')}, pid {process.pid}"] = process.pid
        return found

    def sample(self) -> None:
        """Takes a sample of each."""
        for name, pid in self.members().items():
            descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            self.samples[name].append(Sample(time.monotonic() - self._began, *memory(pid), descriptors))


def memory(pid: int) -> tuple[int, int, int, int]:
    """Anonymous memory, RSS, PSS and USS of a process, in KiB (proc(5), /proc/pid/smaps)."""
    lines = (line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    kib = {name: int(value.split()[0]) for name, value in lines}
    return kib["Anonymous"], kib["Rss"], kib["Pss"], kib["Private_Clean"] + kib["Private_Dirty"]


@contextmanager
def running(folder: Path) -> Iterator[Service]:
    """A service on a bus of its own in the folder; stopped in the end."""
    os.environ["BUSWORKER_BROKER"] = f"filesystem://{folder}/bus"
    os.environ["XDG_STATE_HOME"] = os.environ["XDG_RUNTIME_DIR"] = str(folder)
    service = Service(folder)
    try:
        until = time.monotonic() + READY
        while (folder / "log").read_text().count(" ready") < len(JUDGED) + 4:
            if time.monotonic() > until or service.process.poll() is not None:
                raise SystemExit((folder / "log").read_text())
            time.sleep(0.05)
        yield service
    finally:
        service.process.terminate()
        service.process.wait()


def load(service: Service, seconds: float, rate: float, every: float) -> int:
    """Publishes at a rate, and samples; how many were published."""
    number, began = 0, time.monotonic()
    sampled = began
    while (now := time.monotonic()) < began + seconds:
        receipts = []
        while number < (now - began) * rate:
            number += 1
            receipts.append(bus.publish(placed, number))
        for receipt in receipts:
            receipt.wait(60)
        if now >= sampled:
            sampled += every
            service.sample()
        time.sleep(BATCH)
    return number


def slope(samples: list[Sample]) -> float:
    """KiB a minute, by least squares."""
    return statistics.linear_regression([one.at / 60 for one in samples], [one.anonymous for one in samples]).slope


def show(name: str, samples: list[Sample]) -> None:
    """Prints what a process had each minute."""
    print(f"\n{name}\n{'minute':>8}{'anonymous':>12}{'RSS':>9}{'PSS':>9}{'USS':>9}{'descriptors':>13}")
    due = samples[0].at
    for one in samples:
        if one.at >= due or one is samples[-1]:
            due += 60
            print(
                f"{one.at / 60:>8.1f}{one.anonymous:>12,}{one.rss:>9,}{one.pss:>9,}{one.uss:>9,}{one.descriptors:>13}"
            )


def judge(samples: list[Sample], bound: int) -> bool:
    """Prints how a process's memory went; whether it stayed as it was."""
    judged = samples[len(samples) // 10 :]
    quarter = max(1, len(judged) // 4)
    first, last = judged[:quarter], judged[-quarter:]
    grown = statistics.median(one.anonymous for one in last) - statistics.median(one.anonymous for one in first)
    opened = statistics.median(one.descriptors for one in last) - statistics.median(one.descriptors for one in first)
    print(f"  from the first quarter to the last: {grown:+.0f} KiB, {opened:+g} descriptors", end="; ")
    print(f"{slope(judged):+.1f} KiB/minute")
    return grown <= bound and opened <= 0


def main() -> int:
    """Runs the load, then prints and judges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in (("--minutes", 10.0), ("--rate", 300.0), ("--every", 5.0)):
        parser.add_argument(option, type=float, default=default)
    parser.add_argument("--bound", type=int, default=1024)
    parser.add_argument("--folder")
    parser.add_argument("--samples", type=Path, help="a file that gets all of them")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="busworker-steady-", dir=given.folder) as folder:
        with running(Path(folder)) as service:
            published = load(service, given.minutes * 60, given.rate, given.every)
            bus.close()
        log = (Path(folder) / "log").read_text()
    print(f"{published} published in {given.minutes:g} minutes; {log.count(' died, pid')} workers died", end="; ")
    print(f"{log.count(': dead: ')} dead letters; memory in KiB")
    steady: list[bool] = []
    for name, samples in service.samples.items():
        show(name, samples)
        steady.append(judge(samples, given.bound))
    if given.samples:
        rows = (",".join((name, *map(str, one))) for name, samples in service.samples.items() for one in samples)
        given.samples.write_text("\n".join(rows))
    return 0 if all(steady) and len(steady) == 1 + 2 else 1


if __name__ == "__main__":
    sys.exit(main())
