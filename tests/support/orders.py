"""A shop under faults: a service that records what it does, tills that publish to it, and the account at the end."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.support.home import Home
from tests.support.stage import Stage
from tests.support.waiting import wait_until

WORKERS = 2
TILLS = 100_000
"""The numbers of tills begin here: a publish whose confirm was lost is repeated, so these may be stored twice."""
TOPIC = "order.placed"

# Handlers of 3 ms: no shorter ones, so that nothing is handed out ahead and a worker holds one message.
SHOP = f"""
import ctypes, time
from busworker import Bus, Retry, RetryPolicy, Topic
from recording import record, wait_for

bus = Bus("shop")
noted = Topic("order.noted", int)
pool = bus.channel("pool", processes={WORKERS})

@pool.subscribe(Topic("{TOPIC}", int), retry=RetryPolicy(3, delays=(0,)), time_limit=None)
def handle(event, message):
    record("begin", event, message.attempt)
    time.sleep(0.003)
    record("end", event, message.attempt)

@bus.channel("gated", processes=3).subscribe(Topic("gated", str), retry=RetryPolicy(3, delays=(0,)), time_limit=None)
def gated(event, message):
    record("gated", event, message.attempt)
    deed, _, seconds = event.partition(":")
    match deed:
        case "gil": ctypes.PyDLL(None).sleep(int(seconds))  # in C, with the interpreter's lock held
        case "sleep": time.sleep(float(seconds))
        case "retry" | "later" if message.attempt == 1:
            wait_for("gate")
            raise Retry(after=int(deed == "later"))
        case "publish":
            wait_for("gate")
            bus.publish(noted, 1)
    record("done", event, message.attempt)

@bus.channel("notes").subscribe(noted)
def note(event, message):
    record("noted", event, message.attempt)
"""
TILL = """
import os, sys, time
from busworker import Bus, Topic
from busworker.errors import PublishFailed

told, first, count, deadline, pause = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *map(float, sys.argv[4:])
bus = Bus("till", publish_deadline=deadline)
placed = Topic("order.placed", int)
record = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
for start in range(first, first + count, 10):
    receipts = [(time.monotonic(), number, bus.publish(placed, number)) for number in range(start, start + 10)]
    for began, number, receipt in receipts:
        try:
            receipt.wait(deadline + 60)
        except (PublishFailed, TimeoutError):
            pass
        os.write(record, f"{receipt.state} {number} {time.monotonic() - began:.3f}\\n".encode())
    time.sleep(pause)
"""


class Told(NamedTuple):
    """How a receipt ended, for which number, and after how many seconds."""

    state: str
    number: str
    seconds: float


class Till:
    """A process that publishes numbers, ten at a time, and writes down how each receipt ended.

    Args:
        home: its environment names the bus.
        first: the first number; a till's numbers are its own.
        count: how many.
        deadline: the bus's `publish_deadline`.
        pause: seconds between two tens.
    """

    def __init__(self, home: Home, first: int, count: int, *, deadline: float = 60.0, pause: float = 0.05) -> None:
        self._path = home.path / f"till-{first}"
        self._path.touch()
        self._count = count
        arguments = [self._path, *map(str, (first, count, deadline, pause))]
        with (home.logs / f"till-{first}").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, home.write("till.py", TILL), *arguments],
                env=home.env, cwd=home.path, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._log = Path(log.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def told(self) -> list[Told]:
        """What it has written down so far."""
        whole = self._path.read_text().rpartition("\n")[0]
        return [Told(state, number, float(seconds)) for state, number, seconds in map(str.split, whole.splitlines())]

    @property
    def confirmed(self) -> set[str]:
        """The numbers whose receipts are confirmed."""
        return {one.number for one in self.told if one.state == "confirmed"}

    def wait_confirmed(self, more: int, timeout: float = 30.0) -> None:
        """Waits until so many more are confirmed than at the call."""
        wanted = len(self.confirmed) + more
        wait_until(lambda: len(self.confirmed) >= wanted, timeout, lambda: f"{wanted} confirmed\n{self.told[-20:]}")

    def wait_published(self, timeout: float = 90.0) -> list[Told]:
        """All its receipts, once each has ended; fails if it died of something."""
        code = self._process.wait(timeout)
        assert code == 0, self._log.read_text()
        assert len(self.told) == self._count
        return self.told


class Account(NamedTuple):
    """What became of the numbers.

    `lost` were confirmed and are nowhere; `again` are stored once and began more than once in one attempt; `charged`
    had more than one attempt; `dead` counts the dead letters.
    """

    lost: set[str]
    again: set[str]
    charged: set[str]
    dead: int


def settled(stage: Stage, confirmed: set[str], timeout: float = 60.0) -> Account:
    """The account, once every confirmed number has been handled and nothing is queued any more."""
    wait_until(
        lambda: confirmed <= _completed(stage),
        timeout,
        lambda: f"handled: {sorted(confirmed - _completed(stage))}\n{stage.status('shop')}\n{stage.dead()}",
    )
    stage.wait_empty("shop", timeout)
    letters = {str(letter["body"]) for letter in stage.dead()}
    begun = Counter((line.event, line.attempt) for line in stage.record("begin"))
    return Account(
        lost=confirmed - _completed(stage) - letters,
        again={event for (event, _), times in begun.items() if times > 1 and int(event) < TILLS},
        charged={event for event, attempt in begun if attempt > 1},
        dead=len(letters),
    )


def published(stage: Stage, count: int) -> set[str]:
    """So many numbers from 0 on, stored at once; they are the confirmed ones."""
    stage.publish(TOPIC, *range(count))
    return set(map(str, range(count)))


def wait_handled(stage: Stage, more: int, timeout: float = 30.0) -> None:
    """Waits until so many more executions have ended than at the call."""
    wanted = len(stage.record("end")) + more
    wait_until(lambda: len(stage.record("end")) >= wanted, timeout, lambda: f"{wanted} handled")


def _completed(stage: Stage) -> set[str]:
    return {line.event for line in stage.record("end")}
