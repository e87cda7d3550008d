"""The supervisor as the first process of a container: signals, orphans that come to it, and who died of what."""

import os
import signal
import subprocess
from collections.abc import Iterator

import psutil
import pytest

from tests.support import Service, Stage, wait_until
from tests.support.command import executable
from tests.support.processes import alive

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
APP = """
import os, subprocess, time
from busworker import Bus, RetryPolicy, Topic
from recording import record, wait_for

bus = Bus("shop")

@bus.channel("pool").subscribe(Topic("work", str), time_limit=None, retry=RetryPolicy(2, delays=(0,)))
def handle(event, message):
    record("{version}", event, message.attempt)
    match event:
        case "gated": wait_for("gate")
        case "orphans":  # their parent ends before they do
            subprocess.run(["sh", "-c", "for n in 1 2 3 4 5; do sleep 0.0$n & done"])
        case "daemon": subprocess.run(["setsid", "-f", "sleep", "600"])
        case "hangs": time.sleep(600)
"""
SLOW_IMPORT = "import time\nopen('importing', 'w').close()\ntime.sleep(600)\n"
READY = "consumer shop.pool ready"


class First:
    """A service whose supervisor is PID 1."""

    def __init__(self, stage: Stage, *args: str, wait: bool = True) -> None:
        log = stage.home.logs / "first"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*UNSHARE, executable(), "start", "shop", *args],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=stage.home.path,
                env=stage.home.env,
                start_new_session=True,
            )
        self.service = Service(process, log, log)
        (self.supervisor,) = wait_until(lambda: psutil.Process(process.pid).children(), 10.0, "PID 1")
        if wait:
            self.service.wait_log(READY)
            self.service.wait_log("worker shop.pool/1 ready")

    def ends(self, number: int) -> int:
        """Its exit code after that signal."""
        self.supervisor.send_signal(number)
        code = self.service.wait()
        wait_until(lambda: not self.service.tree(), 1.0, lambda: f"the end of {self.service.tree()}")
        return code

    def pid(self, role: str) -> int:
        """The pid, as seen from outside, of its consumer or worker."""
        (found,) = wait_until(lambda: self.service.tree(role), 10.0, f"the {role}")
        return found.pid

    def zombies(self) -> list[psutil.Process]:
        return [one for one in self.supervisor.children(recursive=True) if one.status() == psutil.STATUS_ZOMBIE]


@pytest.fixture
def first(stage: Stage) -> Iterator[First]:
    """A running service."""
    ensure_permitted()
    stage.home.write("shop.py", APP.replace("{version}", "old"))
    first = First(stage)
    yield first
    first.service.kill_tree()


def ensure_permitted() -> None:
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("NO PID NAMESPACE IS PERMITTED HERE: NOT TESTED AS PID 1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_and_int_drain(stage: Stage, first: First, number: int) -> None:
    stage.publish("work", "gated")
    stage.wait_recorded(1)
    first.supervisor.send_signal(number)
    first.service.wait_log("draining")
    stage.touch("gate")
    assert first.service.wait() == 0
    assert [line.attempt for line in stage.record()] == [1]


def test_quit_stops_at_once(stage: Stage, first: First) -> None:
    stage.publish("work", "hangs")
    stage.wait_recorded(1)
    assert first.ends(signal.SIGQUIT) == 75


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGQUIT, 75)])
def test_a_stop_while_the_application_is_imported_is_one(stage: Stage, number: int, code: int) -> None:
    ensure_permitted()
    stage.home.write("shop.py", SLOW_IMPORT)
    first = First(stage, wait=False)
    wait_until((stage.home.path / "importing").exists, 20.0, "the import")
    assert first.ends(number) == code


def test_hup_loads_the_new_code(stage: Stage, first: First) -> None:
    stage.home.write("shop.py", APP.replace("{version}", "renewed"))
    first.supervisor.send_signal(signal.SIGHUP)
    wait_until(lambda: first.service.stderr.count(READY) == 2, 20.0, lambda: first.service.stderr)
    stage.publish("work", "after")
    stage.wait_recorded(1)
    assert [line.what for line in stage.record()] == ["renewed"]
    assert stage.status("shop")["pid"] == 1
    assert first.ends(signal.SIGTERM) == 0


def test_orphans_are_reaped_and_nobody_is_mistaken_for_them(stage: Stage, first: First) -> None:
    for _ in range(3):
        stage.publish("work", *["orphans"] * 10)
        stage.publish("work", "hangs")
        wait_until(lambda: stage.record()[-1:] and stage.record()[-1].event == "hangs", 30.0, "the hanging one")
        os.kill(first.pid("worker"), signal.SIGKILL)
        wait_until(lambda: stage.record()[-1].attempt == 2, 30.0, "its second attempt")
        os.kill(first.pid("worker"), signal.SIGKILL)
        first.service.wait_log(": dead")
    wait_until(lambda: len(stage.dead()) == 3, 20.0, "3 dead letters")
    assert {letter["worker"]["signal"] for letter in stage.dead()} == {"SIGKILL"}
    assert len(stage.record()) == 36
    wait_until(lambda: not first.zombies(), 5.0, lambda: f"the reaping of {first.zombies()}")
    assert first.ends(signal.SIGTERM) == 0


def test_a_killed_consumer_is_told_and_replaced(stage: Stage, first: First) -> None:
    os.kill(first.pid("consumer"), signal.SIGKILL)
    assert "SIGKILL" in first.service.wait_log("consumer shop.pool died")
    stage.publish("work", "after")
    stage.wait_recorded(1)
    assert first.ends(signal.SIGTERM) == 0


def test_a_daemon_of_a_handler_ends_with_its_worker_but_nobody_elses_orphan(stage: Stage, first: First) -> None:
    inside = ["nsenter", "-t", str(first.supervisor.pid), "-p", "-m"]
    subprocess.run([*inside, "sh", "-c", "setsid -f sleep 601; setsid -f sleep 0.01"], check=True)
    stage.publish("work", "daemon")

    def sleeping(seconds: str) -> list[psutil.Process]:
        return [one for one in first.supervisor.children() if one.cmdline() == ["sleep", seconds]]

    (daemon,) = wait_until(lambda: sleeping("600"), 10.0, "the daemon")
    (stranger,) = wait_until(lambda: sleeping("601"), 10.0, "the orphan")
    seen = first.supervisor.cpu_times()
    wait_until(lambda: not first.zombies(), 5.0, lambda: f"the reaping of {first.zombies()} {seen}")
    os.kill(first.pid("worker"), signal.SIGKILL)
    wait_until(lambda: not alive(daemon.pid), 1.0, "its end")
    assert alive(stranger.pid)
    assert first.ends(signal.SIGTERM) == 0
    assert not alive(stranger.pid), "the kernel ends it with PID 1"


def test_kill_9_leaves_nothing(stage: Stage, first: First) -> None:
    stage.publish("work", "daemon", "hangs")
    stage.wait_recorded(2)
    left = [one.pid for one in first.supervisor.children(recursive=True)]
    first.supervisor.kill()
    wait_until(lambda: not any(map(alive, left)), 1.0, "the end of all")
    first.service.wait()
