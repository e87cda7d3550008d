"""What `amqp_rates.py` compares: busworker, Celery and Dramatiq, each as it would run in production.

The worker is a program of its own with two processes that handle messages; this process publishes.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amqp_meter import Figure, Meter
from amqp_raw import purge
from amqp_service import COUNTED, EVENT, TIMES, noop, timed

from busworker import Bus, places
from busworker.broker import topology
from busworker.broker.session import open_session
from busworker.ipc import control

HERE = Path(__file__).parent
WAIT = 120.0


def until(done: Callable[[], object], what: str, pause: float = 0.005) -> None:
    """Waits for a condition, not for ever."""
    limit = time.monotonic() + WAIT
    while not done():
        if time.monotonic() > limit:
            raise SystemExit(f"not within {WAIT:g} s: {what}")
        time.sleep(pause)


class Program:
    """A worker, and the files in which its handlers are counted and timed."""

    command: tuple[str, ...]

    def __init__(self, meter: Meter, folder: Path, name: str) -> None:
        self._meter, self.log = meter, folder / f"{name}.log"
        self._counted, self._times = folder / f"{name}.counted", folder / f"{name}.times"
        self._times.touch()
        self._env = os.environ | {COUNTED: str(self._counted), TIMES: str(self._times), "PYTHONPATH": str(HERE)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Starts the worker; returns its process id."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", *self.command]
            self._process = subprocess.Popen(command, env=self._env, cwd=HERE, stdout=log, stderr=log)
        return self._process.pid

    def stop(self) -> None:
        """Stops the worker in an orderly way; by force if that takes too long."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(WAIT)
            finally:
                self._process.kill()
                self._process = None

    def drain(self, count: int) -> Figure:
        """From the first messages that are seen to be handled to the last."""
        self._counted.write_bytes(b"")
        pid = self.start()
        until(lambda: self._counted.stat().st_size, f"a message is handled; see {self.log}")
        self._meter.begin(pid, self._counted.stat().st_size)
        until(lambda: self._counted.stat().st_size >= count, f"{count} messages are handled; see {self.log}")
        figure = self._meter.end(pid, count)
        self.stop()
        return figure

    def times(self) -> list[float]:
        """Seconds that each timed message took."""
        return [float(line) for line in self._times.read_text().splitlines()]

    def time_one(self) -> None:
        """Publishes the time, and waits until a handler has written down how long that took."""
        before = len(self.times())
        self.publish_timed()
        until(lambda: len(self.times()) > before, f"a timed message is handled; see {self.log}")

    def start_timed(self) -> None:
        """Starts the worker, and waits until it handles messages."""
        self.start()
        self.time_one()

    def publish_timed(self) -> None:
        """Publishes the time."""
        raise NotImplementedError


class Busworker(Program):
    """`busworker start amqp_service.py`, and a bus that publishes."""

    command = ("busworker", "start", "amqp_service.py", "--log-level", "warning")

    def __init__(self, meter: Meter, folder: Path, url: str, queue_type: str) -> None:
        super().__init__(meter, folder, f"busworker-{queue_type}")
        self._plain_url, self._url = url, f"{url}?queue_type={queue_type}"
        home = folder / queue_type
        home.mkdir()
        self._env |= {"BUSWORKER_BROKER": self._url, "XDG_STATE_HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
        key = places.instance_key("bench", self._url, "default")
        self._socket = home / "busworker" / f"{key}.sock"
        self._sender: Bus | None = None

    def publish(self, count: int) -> Figure:
        """From the first publish to the last receipt."""
        session = open_session(self._url)
        session.declare()
        session.declare_work(noop.name, "bench", "noop")
        session.close()
        sender = Bus("sender", broker=self._url, publish_deadline=WAIT)
        self._meter.begin()
        receipts = [sender.publish(noop, EVENT) for _ in range(count)]
        sender.flush(WAIT)
        figure = self._meter.end(None, count)
        sender.close()
        if any(receipt.state != "confirmed" for receipt in receipts):
            raise SystemExit("a message was not confirmed")
        return figure

    def empty(self) -> None:
        """Drops what was published."""
        purge(self._plain_url, topology.work_queue(noop.name, "bench", "noop"))

    def start_timed(self) -> None:
        """Starts the worker, and the publisher once that runs: before it does, nobody subscribes."""
        self.start()
        until(self._runs, f"the service runs; see {self.log}")
        self._sender = Bus("sender", broker=self._url)
        self.time_one()

    def stop(self) -> None:
        """Stops both."""
        super().stop()
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def publish_timed(self) -> None:
        assert self._sender is not None
        self._sender.publish(timed, time.time())

    def _runs(self) -> bool:
        try:
            answer: Any = control.ask(self._socket, "status", {}, WAIT)
        except control.NotRunning:
            return False
        return all(channel["state"] == "running" for channel in answer["channels"])


class Celery(Program):
    """`celery worker` with two processes."""

    command = ("celery", "--app", "amqp_celery", "worker", "--concurrency", "2", "--loglevel", "error")
    command += ("--without-gossip", "--without-mingle", "--without-heartbeat")

    def __init__(self, meter: Meter, folder: Path, url: str) -> None:
        super().__init__(meter, folder, "celery")
        self._url = url
        self._env["AMQP_RATES_CELERY"] = os.environ["AMQP_RATES_CELERY"] = url
        self._module: Any = importlib.import_module("amqp_celery")

    def publish(self, count: int) -> Figure:
        """Each `delay` returns when its message is confirmed."""
        return _published(self._meter, self._module.nothing.delay, count)

    def empty(self) -> None:
        """Drops what was published."""
        purge(self._url, "celery")


class Dramatiq(Program):
    """`dramatiq` with two processes."""

    command = ("dramatiq", "amqp_dramatiq", "--processes", "2", "--threads", "8")

    def __init__(self, meter: Meter, folder: Path, url: str) -> None:
        super().__init__(meter, folder, "dramatiq")
        self._url = url
        self._env["AMQP_RATES_DRAMATIQ"] = os.environ["AMQP_RATES_DRAMATIQ"] = url
        self._module: Any = importlib.import_module("amqp_dramatiq")

    def publish(self, count: int) -> Figure:
        """Each `send` returns when its message is confirmed."""
        return _published(self._meter, self._module.nothing.send, count)

    def empty(self) -> None:
        """Drops what was published."""
        purge(self._url, "default")

    def publish_timed(self) -> None:
        self._module.note_time.send(time.time())


def _published(meter: Meter, publish: Callable[[object], object], count: int) -> Figure:
    publish(EVENT)  # connects, and declares the queue
    meter.begin(None, 1)
    for _ in range(count - 1):
        publish(EVENT)
    return meter.end(None, count)
