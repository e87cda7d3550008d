"""How long after `kill -9` of a worker that executes its replacement executes the next message.

    python contrib/benchmarks/replacement.py [--kills 50]

One worker; its handler records when it begins, in a file, and waits to be killed. The time is from the kill to the next
line of that file. Compare with the figure of a fork alone, taken in the same run: the machine is part of it.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

APP = """
import os, time
from busworker import Bus, RetryPolicy, Topic
bus = Bus("replaced")

@bus.channel("pool").subscribe(Topic("killed", int), retry=RetryPolicy(1), time_limit=None)
def handle(number):
    line = f"{time.monotonic()} {os.getpid()}\\n".encode()
    descriptor = os.open("begun", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line)
    time.sleep(3600)
"""
WAIT = 30.0


def main() -> int:
    """Prints both medians in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    kills: int = parser.parse_args().kills
    with tempfile.TemporaryDirectory(prefix="busworker-bench-") as folder:
        found = sorted(measure(Path(folder), kills))
    forks = sorted(fork() for _ in range(kills))
    print(f"kill -9 of a worker to the next execution, {len(found)} times: median {statistics.median(found):.1f} ms,")
    print(f"  fastest {found[0]:.1f}, slowest {found[-1]:.1f} ms")
    print(f"a fork and its end, in this small process: median {statistics.median(forks):.2f} ms")
    return 0


def measure(folder: Path, kills: int) -> list[float]:
    """Milliseconds from each kill to the next execution."""
    (folder / "replaced.py").write_text(APP)
    env = os.environ | {"XDG_STATE_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    command = [str(Path(sys.executable).with_name("busworker"))]
    service = subprocess.Popen([*command, "start", "replaced", "--log-level", "error"], cwd=folder, env=env)
    try:
        until(
            lambda: (
                subprocess.run([*command, "status"], cwd=folder, env=env, capture_output=True, check=False).returncode
                == 0
            )
        )
        events = "".join(f"{number}\n" for number in range(kills + 1))
        publish = [*command, "publish", "killed", "-"]
        subprocess.run(publish, cwd=folder, env=env, input=events.encode(), check=True, stdout=subprocess.DEVNULL)
        return [kill(folder / "begun", number + 1) for number in range(kills)]
    finally:
        service.send_signal(signal.SIGQUIT)
        service.wait(WAIT)


def kill(begun: Path, lines: int) -> float:
    """Kills the worker of the last line, and waits for the next one."""
    until(lambda: len(read(begun)) == lines)
    _, pid = read(begun)[-1].split()
    time.sleep(0.05)  # what the last replacement did is over: this measures one at a time
    killed = time.monotonic()
    os.kill(int(pid), signal.SIGKILL)
    until(lambda: len(read(begun)) == lines + 1)
    return (float(read(begun)[-1].split()[0]) - killed) * 1000


def fork() -> float:
    """Milliseconds of a fork whose child ends at once."""
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return (time.monotonic() - begin) * 1000


def read(path: Path) -> list[str]:
    """Its lines."""
    return path.read_text().splitlines() if path.exists() else []


def until(condition: object) -> None:
    """Waits for a condition."""
    end = time.monotonic() + WAIT
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise SystemExit("the service doesn't answer")
        time.sleep(0.001)


if __name__ == "__main__":
    sys.exit(main())
