"""Runs the example while it kills a random process every second, then compares with awk. Exit 0: all as promised.

Usage: chaos.py worker|consumer|supervisor|tree [INDEX]
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

HERE = Path(__file__).parent
SERVICES = ("sections", "sizes", "audit")
EVERY = 1.0
PATIENCE = 600.0


class Chaos:
    """The three services with a bus of their own, and what was killed."""

    def __init__(self, role: str, index: str | None, folder: Path) -> None:
        self.role, self.index, self.folder = role, index, folder
        self.random = random.Random(int(os.environ.get("SEED", "1")))
        self.env = {
            **os.environ,
            "BUSWORKER_BROKER": f"filesystem://{folder}/bus",
            "DEBIAN_OUTPUT": str(folder / "output"),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_RUNTIME_DIR": str(folder),
        }
        self.kills = 0
        self.slowest_end = 0.0
        self.supervisors: dict[str, subprocess.Popen[bytes]] = {}

    def command(self, *arguments: str) -> list[str]:
        """The busworker command with arguments."""
        return [sys.executable, "-m", "busworker", *arguments]

    def start(self, service: str) -> None:
        """Starts a service; its log goes to a file."""
        with (self.folder / f"{service}.log").open("ab") as log:
            arguments = self.command("start", f"{service}_service:bus")
            self.supervisors[service] = subprocess.Popen(arguments, cwd=HERE, env=self.env, stderr=log, stdout=log)

    def publish(self) -> subprocess.Popen[bytes]:
        """Starts publishing the whole index."""
        index = [sys.executable, "package_index.py", *([self.index] if self.index else [])]
        source = subprocess.Popen(index, cwd=HERE, stdout=subprocess.PIPE)
        arguments = self.command("publish", "debian.package.seen", "-")
        return subprocess.Popen(arguments, env=self.env, stdin=source.stdout, stdout=subprocess.PIPE)

    def kill(self) -> None:
        """Kills what the role says of a random service."""
        service = self.random.choice(SERVICES)
        supervisor = self.supervisors[service]
        family = [child for child in psutil.Process(supervisor.pid).children() if child.is_running()]
        if self.role in ("worker", "consumer"):
            chosen = [child for child in family if f"busworker: {self.role}" in " ".join(child.cmdline())]
            if chosen:
                self.random.choice(chosen).kill()
                self.kills += 1
            return
        supervisor.kill()
        if self.role == "tree":
            for child in family:
                child.kill()
        self.kills += 1
        self.wait_until_gone(family)
        supervisor.wait()
        self.start(service)

    def wait_until_gone(self, family: list[psutil.Process]) -> None:
        """Measures how long a dead supervisor's children live."""
        since = time.monotonic()
        while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family):
            if time.monotonic() - since > 5:
                raise SystemExit(f"processes live 5 s after their supervisor: {family}")
            time.sleep(0.005)
        self.slowest_end = max(self.slowest_end, time.monotonic() - since)

    def is_done(self) -> bool:
        """Whether no service holds or awaits anything."""
        return all(self.left(service) == 0 for service in SERVICES)

    def left(self, service: str) -> int | None:
        """Messages of a service that aren't settled; None while that can't be told."""
        arguments = self.command("status", "--service", service, "--json")
        asked = subprocess.run(arguments, env=self.env, capture_output=True, check=False)
        if asked.returncode:
            return None
        counts = [
            channel[key]
            for channel in json.loads(asked.stdout)["channels"]
            for key in ("ready", "in_flight", "waiting")
        ]
        return None if None in counts else sum(counts)

    def run(self) -> int:
        """The whole story."""
        started = time.monotonic()
        for service in SERVICES:
            self.start(service)
        while not self.bound():
            time.sleep(0.05)
        publisher = self.publish()
        while publisher.poll() is None or not self.is_done():
            if time.monotonic() - started > PATIENCE:
                raise SystemExit("not done in time")
            time.sleep(EVERY)
            self.kill()
        took = time.monotonic() - started
        codes = [self.stop(service) for service in SERVICES]
        dead = subprocess.run(self.command("dead", "list", "--json"), env=self.env, capture_output=True, check=True)
        print(f"{self.kills} kills of a {self.role} in {took:.0f} s; dead letters {len(json.loads(dead.stdout))}")
        if self.slowest_end:
            print(f"the last process of a killed supervisor ended after {self.slowest_end * 1000:.0f} ms")
        print(f"exit codes at the end {codes}")
        compared = subprocess.run(
            [sys.executable, "compare.py", *([self.index] if self.index else [])], cwd=HERE, env=self.env, check=False
        )
        return compared.returncode or any(codes) or bool(json.loads(dead.stdout))

    def bound(self) -> bool:
        """Whether every service is running: its subscriptions are bound."""
        for service in SERVICES:
            arguments = self.command("status", "--service", service, "--json")
            asked = subprocess.run(arguments, env=self.env, capture_output=True, check=False)
            if asked.returncode or json.loads(asked.stdout)["state"] != "running":
                return False
        return True

    def stop(self, service: str) -> int:
        """Stops a service in an orderly way; its exit code."""
        self.supervisors[service].terminate()
        return self.supervisors[service].wait(60)


def main() -> int:
    """Runs in a temporary folder."""
    role = sys.argv[1] if len(sys.argv) > 1 else ""
    if role not in ("worker", "consumer", "supervisor", "tree"):
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory(prefix="busworker-debian-") as folder:
        chaos = Chaos(role, sys.argv[2] if len(sys.argv) > 2 else None, Path(folder))
        try:
            return chaos.run()
        finally:
            for supervisor in chaos.supervisors.values():
                supervisor.kill()


if __name__ == "__main__":
    sys.exit(main())
