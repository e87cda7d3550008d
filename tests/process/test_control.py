"""What a running service answers, whatever its workers, its broker and other clients of its control socket do."""

import os
import pty
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import Any

from busworker.ipc import control
from tests.support import Service, Stage, wait_until
from tests.support.command import executable
from tests.support.rabbitmq import Node
from tests.support.transports import on

AT_MOST = 2.0
"""Seconds for an answer on a loaded machine (contrib/benchmarks/control.py measures them on a quiet one); whoever says
nothing may do so for longer."""
APP = """
import ctypes
from busworker import Bus, RetryPolicy, Topic
from recording import record
bus = Bus("shop")
@bus.channel("pool", processes=2).subscribe(Topic("work", str), retry=RetryPolicy(1), time_limit=None)
def work(event, message):
    record("begin", event, message.attempt)
    if event == "gil":
        ctypes.PyDLL(None).sleep(600)  # in C, with the interpreter's lock held
    assert event != "bad", "a bad one"
"""


@contextmanager
def silent_clients(path: Path, count: int) -> Iterator[None]:
    """So many connections to a socket that say nothing."""
    with ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.connect(str(path))
        yield


def longest_answer(path: Path) -> float:
    """Seconds that the slowest of the commands takes."""
    took: list[float] = []
    for command, arguments in (
        ("status", {}),
        ("health", {"probe": "live"}),
        ("scale", {"channel": "pool", "processes": 2}),
        ("identify", {}),
    ):
        began = time.monotonic()
        control.ask(path, command, arguments, 10)
        took.append(time.monotonic() - began)
    return max(took)


def test_a_service_answers_at_once_although_its_workers_are_busy_and_others_are_silent(stage: Stage) -> None:
    service = busy(stage)
    assert_answers(stage)
    service.signal(signal.SIGQUIT)
    assert service.wait() == 75


@on("victim")
def test_a_service_answers_at_once_although_its_broker_is_frozen_too(stage: Stage, victim: Node) -> None:
    service = busy(stage)
    victim.pause()
    assert_answers(stage)
    service.signal(signal.SIGQUIT)
    assert service.wait() == 75


def busy(stage: Stage) -> Service:
    """A service each of whose workers holds the interpreter."""
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    stage.publish("work", "gil", "gil")
    stage.wait_recorded(2)
    return service


def assert_answers(stage: Stage) -> None:
    (path,) = (stage.home.runtime / "busworker").glob("*.sock")
    with silent_clients(path, 100):
        for _ in range(5):
            assert longest_answer(path) < AT_MOST
        assert [worker["state"] for worker in stage.channels("shop")["pool"]["workers"]] == ["executing"] * 2


def test_status_tells_what_failed_last_how_old_what_waits_is_and_how_fast_it_goes(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    began = time.time()
    stage.publish("work", *["good"] * 20, "bad")
    stage.wait_empty("shop")
    pool = told(stage)
    (letter,) = stage.dead()
    assert (
        pool["last_error"].items()
        >= {
            "subscription": "work/shop.pool",
            "message": letter["id"],
            "attempt": 1,
            "max_attempts": 1,
            "error": "dead: exception (AssertionError: a bad one)",
        }.items()
    )
    assert pool["oldest"] is None
    assert 0 < pool["rate"] <= 21
    assert stage.command.run("pause", "pool").returncode == 0
    wait_until(lambda: stage.channels("shop")["pool"]["state"] == "paused", 10, "the pause")
    stage.publish("work", "good")
    assert told(stage)["oldest"] >= time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(began))
    wide, narrow = (on_terminal(stage, columns) for columns in (200, 80))
    assert [line for line in narrow if len(line) > 80 and not line.startswith(("service", "broker", "pool: "))] == []
    assert ("PROCESSED" in wide[3], "DEAD" in narrow[3], "IN FLIGHT" in narrow[3]) == (True, True, False)
    assert any(line.startswith("pool: last error ") and "AssertionError: a bad one" in line for line in narrow)
    assert service.terminate() == 0


def told(stage: Stage) -> dict[str, Any]:
    """The channel's status, once its consumer has told its part in time."""
    return wait_until(
        lambda: (pool := stage.channels("shop")["pool"])["rate"] is not None and pool, 20, "what the consumer tells"
    )


def on_terminal(stage: Stage, columns: int) -> list[str]:
    """The lines of `status` on a terminal of that width."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    env = {name: value for name, value in stage.home.env.items() if name != "COLUMNS"}
    try:
        subprocess.run([executable(), "status"], stdout=theirs, env=env, cwd=stage.home.path, timeout=30, check=True)
        return os.read(ours, 64 * 1024).decode().splitlines()
    finally:
        os.close(ours)
        os.close(theirs)
