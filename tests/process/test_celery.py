"""A Celery application of ten lines on the embedded engine: unchanged but for the URL and the transport's class."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import kombu
import pytest

from tests.support import Home, wait_until

TASKS = 100

APP = """
import os
from celery import Celery

app = Celery("app", broker=os.environ["BROKER"])
app.conf.update(
    broker_transport="busworker.transports:FilesystemTransport", task_acks_late=True, task_reject_on_worker_lost=True
)

@app.task(bind=True, max_retries=5)
def note(self, number):
    if number % 10 == 0 and self.request.retries < 2:
        raise self.retry(countdown=0.1)
    line = f"{number} {self.request.retries} {os.getpid()}\\n".encode()
    descriptor = os.open("done", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line)
    if number == 33 and not self.request.delivery_info["redelivered"]:
        os.kill(os.getpid(), 9)
"""


class Celery:
    """A worker of that application, and its client."""

    def __init__(self, home: Home) -> None:
        home.write("celery_app.py", APP)
        self.home, self.url = home, f"filesystem://{home.path}/bus"
        self.env = {**home.env, "BROKER": self.url, "C_FORCE_ROOT": "1"}
        self.log = (home.logs / "worker").open("wb")
        command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-c", "2", "-n", "worker@test"]
        self.worker = subprocess.Popen(
            command, cwd=home.path, env=self.env, stderr=self.log, stdout=self.log, start_new_session=True
        )

    def client(self, script: str) -> str:
        """What a client of the application prints."""
        code = f"from celery_app import app, note\n{script}"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.home.path,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def done(self) -> list[list[int]]:
        """Number, retries and process of each task that was done."""
        path = self.home.path / "done"
        return [[int(word) for word in line.split()] for line in path.read_text().splitlines()] if path.exists() else []

    def pings(self) -> bool:
        assert self.worker.poll() is None, (self.home.logs / "worker").read_text()
        return "pong" in self.client("print(app.control.ping(timeout=0.5))")

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.worker.pid, signal.SIGKILL)  # with the processes of its pool
        self.worker.wait(10)
        self.log.close()


@pytest.fixture
def celery(home: Home) -> Iterator[Celery]:
    """A running worker."""
    celery = Celery(home)
    try:
        wait_until(celery.pings, 30, "an answer of the worker")
        yield celery
    finally:
        celery.end()


def counts(celery: Celery) -> tuple[int, int]:
    """Ready and claimed messages of the task queue."""
    connection: Any = kombu.Connection(celery.url, transport="busworker.transports:FilesystemTransport")
    with connection, connection.channel() as channel:
        found: tuple[int, int] = channel.queue_counts("celery")
        return found


def test_a_celery_worker_runs_with_retries_late_acknowledgement_and_remote_control(celery: Celery) -> None:
    celery.client(f"for number in range({TASKS}): note.delay(number)")
    wait_until(lambda: len({one[0] for one in celery.done()}) == TASKS, 60, "all tasks done")
    # The repeat of the killed task may be the last thing of all: it's in the queue, or held, until it has run.
    wait_until(lambda: counts(celery) == (0, 0), 30, "an empty queue")
    times = Counter(number for number, _, _ in celery.done())
    assert {number for number, count in times.items() if count > 1} == {33}  # killed once after its effect
    assert all(retries == (2 if number % 10 == 0 else 0) for number, retries, _ in celery.done())
    script = "inspect = app.control.inspect(timeout=0.5); print(inspect.active_queues()['worker@test'][0]['name'])"
    assert celery.client(script) == "celery"
    celery.client("app.control.cancel_consumer('celery', reply=True, timeout=0.5); note.delay(1)")
    assert counts(celery) == (1, 0)
    celery.client("app.control.shutdown()")
    assert celery.worker.wait(20) == 0
    assert counts(celery) == (1, 0)


def test_what_a_killed_celery_worker_held_comes_back_at_once(celery: Celery) -> None:
    celery.client("for number in range(8): note.apply_async((number,), countdown=30)")
    wait_until(lambda: counts(celery) == (0, 8), 20, "all held by the worker until their time comes")
    os.kill(celery.worker.pid, signal.SIGKILL)
    begun = time.monotonic()
    wait_until(lambda: counts(celery) == (8, 0), 20, "all ready again")
    assert time.monotonic() - begun < 10
