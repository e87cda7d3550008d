"""How soon a service answers its control socket while every worker holds the interpreter and others say nothing.

    python contrib/benchmarks/control.py [--asked 200] [--silent 100] [--broker URL] [--freeze PID]

`--freeze` stops that process (a broker's) meanwhile. The wanted bound is 100 ms for each answer.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from busworker import Bus, RetryPolicy, Topic, places
from busworker.errors import ControlError
from busworker.ipc import control

WORKERS = 2
hold = Topic("bench.hold", str)
bus = Bus("held")


@bus.channel("pool", processes=WORKERS).subscribe(hold, retry=RetryPolicy(1), time_limit=None)
def holds(event: str) -> None:
    """Holds the interpreter, in C."""
    with Path(event).open("a") as file:
        file.write("begun\n")
    ctypes.PyDLL(None).sleep(3600)


def wait(done: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 30
    while not done():
        if time.monotonic() > until:
            raise SystemExit(f"not within 30 s: {what}")
        time.sleep(0.05)


def ready(path: Path) -> bool:
    try:
        control.ask(path, "health", {"probe": "ready"}, 10)
    except ControlError:
        return False
    return True


def measure(path: Path, asked: int) -> None:
    """Prints the median and the longest answer of each command, in milliseconds."""
    commands: dict[str, dict[str, object]] = {
        "status": {},
        "health": {"probe": "live"},
        "scale": {"channel": "pool", "processes": WORKERS},
    }
    for command, arguments in commands.items():
        took: list[float] = []
        for _ in range(asked):
            begun = time.perf_counter()
            control.ask(path, command, arguments, 10)
            took.append((time.perf_counter() - begun) * 1000)
        took.sort()
        print(f"{command:8} p50 {took[len(took) // 2]:6.2f} ms   max {took[-1]:6.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asked", type=int, default=200)
    parser.add_argument("--silent", type=int, default=100)
    parser.add_argument("--broker")
    parser.add_argument("--freeze", type=int)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    broker = options.broker or f"filesystem://{folder}/bus"
    os.environ |= {"BUSWORKER_BROKER": broker, "XDG_RUNTIME_DIR": str(folder), "XDG_STATE_HOME": str(folder)}
    begun = folder / "begun"
    with (folder / "log").open("wb") as log, ExitStack() as stack:
        service = subprocess.Popen([sys.executable, "-m", "busworker", "start", __file__], stderr=log)
        stack.callback(service.wait)
        stack.callback(service.send_signal, signal.SIGQUIT)
        path = places.socket_path(places.instance_key("held", broker, "default"))
        wait(lambda: ready(path), "the service runs")
        sender = Bus("sender")
        for _ in range(WORKERS):
            sender.publish(hold, str(begun)).wait()
        sender.close()
        wait(lambda: begun.exists() and begun.read_text().count("\n") == WORKERS, "every worker executes")
        if options.freeze:
            os.kill(options.freeze, signal.SIGSTOP)
            stack.callback(os.kill, options.freeze, signal.SIGCONT)
        for _ in range(options.silent):
            stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)).connect(str(path))
        measure(path, options.asked)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
