"""What a service manager hears from a service, on a real socket as systemd's, and that nobody else can use it."""

import configparser
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from busworker import settings
from busworker.supervisor.state import CONSUMER_SETTLES
from tests.support import Service, Stage, wait_until
from tests.support.command import executable

UNIT = Path(__file__).parents[2] / "contrib" / "systemd" / "busworker@.service"

APP = """
import os, subprocess
from busworker import Bus, Topic
from recording import record

def look(where):
    seen = [name for name in os.environ if name.startswith(("NOTIFY_", "WATCHDOG_"))]
    child = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    record(where, "seen" if seen or "NOTIFY_" in child or "WATCHDOG_" in child else "unseen")

look("VERSION")
bus = Bus("shop")

@bus.channel("pool").subscribe(Topic("work", str))
def handle(event):
    look("handler")
"""
BROKEN = "1 / 0\n"
WATCHDOG = 0.4


class Manager:
    """The socket of a service manager."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.heard: list[str] = []

    def hear(self, timeout: float) -> str:
        """The next message.

        Raises:
            TimeoutError: none comes within so many seconds.
        """
        self._sock.settimeout(timeout)
        self.heard.append(self._sock.recv(4096).decode())
        return self.heard[-1]

    def until(self, assignment: str, timeout: float = 30.0) -> str:
        """The next message with that assignment."""
        end = time.monotonic() + timeout
        while assignment not in self.hear(max(end - time.monotonic(), 0.001)).split("\n"):
            pass
        return self.heard[-1]

    def forget(self) -> None:
        """What has come so far counts no more."""
        try:
            while True:
                self.hear(0.001)
        except TimeoutError:
            self.heard.clear()


@contextmanager
def listening(path: Path) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        yield Manager(sock)


def write(stage: Stage, version: str) -> None:
    stage.home.write("shop.py", APP.replace("VERSION", version))


def reloaded(service: Service, manager: Manager) -> list[str]:
    """What the manager heard of a reload, which began after it was asked for, up to its end."""
    asked = time.monotonic()
    service.signal(signal.SIGHUP)
    begun = dict(line.split("=", 1) for line in manager.until("RELOADING=1").split("\n"))
    assert asked <= int(begun["MONOTONIC_USEC"]) / 1_000_000 <= time.monotonic()
    manager.heard.clear()
    manager.until("READY=1")
    return manager.heard


def test_a_service_manager_hears_how_the_service_is_and_nobody_else_can_talk_to_it(stage: Stage) -> None:
    path = stage.home.path / "notify"
    environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": f"{WATCHDOG * 1_000_000:.0f}"}
    write(stage, "old")
    with listening(path) as manager:
        service = stage.launch("shop", env=environment)
        assert "STATUS=running: pool has 1 of 1 workers up" in manager.until("READY=1")
        assert any("EXTEND_TIMEOUT_USEC=30000000" in text for text in manager.heard)
        stage.publish("work", "one")
        stage.wait_recorded(2)

        manager.until("WATCHDOG=1", 5)
        manager.until("WATCHDOG=1", 5)
        service.signal(signal.SIGSTOP)
        stopped = psutil.Process(service.pid)
        wait_until(lambda: stopped.status() == psutil.STATUS_STOPPED, 10, "a supervisor that is stopped")
        manager.forget()
        try:
            raise AssertionError(f"a stopped supervisor said {manager.hear(2.5 * WATCHDOG)!r}")
        except TimeoutError:
            service.signal(signal.SIGCONT)
        manager.until("WATCHDOG=1", 10)

        stage.home.write("shop.py", BROKEN)
        assert not any("STATUS=draining" in text for text in reloaded(service, manager))
        assert "the new code is not used" in service.stderr
        write(stage, "newer")
        assert any("STATUS=draining" in text for text in reloaded(service, manager))
        assert "starting again" in service.stderr
        stage.publish("work", "two")
        stage.wait_recorded(5)

        service.signal(signal.SIGTERM)
        manager.until("STOPPING=1")
        assert service.wait() == 0
    seen = [(line.what, line.event) for line in stage.record()]
    assert seen.count(("handler", "unseen")) == 2
    assert {event for _, event in seen} == {"unseen"}, seen
    assert {what for what, _ in seen} == {"old", "newer", "handler"}


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("the unit isn't checked: systemd-analyze is missing (apt install systemd)")
    unit = tmp_path / "busworker@email.service"
    text = UNIT.read_text()
    assert text.count("/srv/%i/venv/bin/busworker ") == 1
    unit.write_text(text.replace("/srv/%i/venv/bin/busworker ", f"{executable()} "))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_gives_a_drain_the_time_that_it_takes() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read(UNIT)
    assert unit.getfloat("Service", "TimeoutStopSec") > (settings.GRACE.default or 0.0) + 2 * CONSUMER_SETTLES
