"""The start of a service, up to its first fork: locks, leftovers, and a broker that can't be used."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import busworker
from busworker.supervisor.child import Death, death
from tests.support import Home, Service

Start = Callable[[str], Service]


@pytest.fixture
def start(home: Home) -> Iterator[Start]:
    """Starts a service whose broker is tried by the named script; kills what is left of it at the end."""
    services: list[Service] = []

    def start(probe: str = "fitting") -> Service:
        paths = [str(Path(busworker.__file__).parents[1]), str(Path(__file__).parents[2])]
        number = len(services)
        stdout, stderr = home.logs / f"{number}.stdout", home.logs / f"{number}.stderr"
        with stdout.open("wb") as out, stderr.open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.process.started", probe],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=home.env | {"PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,
            )
        services.append(Service(process, stdout, stderr))
        return services[-1]

    yield start
    for service in services:
        service.kill_tree()


@pytest.mark.parametrize(
    ("probe", "code", "text"),
    [
        ("unavailable", 69, "memory://scripted is out of reach"),
        ("wrong", 78, "memory://scripted makes no sense"),
        ("dying", 69, "the process that tried the broker ended with SIGKILL"),
    ],
)
def test_a_store_that_cannot_be_opened_ends_the_start(start: Start, probe: str, code: int, text: str) -> None:
    service = start(probe)
    assert service.wait() == code
    assert f"error: {text}" in service.stderr


def test_a_second_equal_service_is_refused_and_touches_nothing(start: Start) -> None:
    first = start("fitting")
    first.wait_log("worker email.welcome/1 ready")
    second = start("fitting")
    assert second.wait() == 73
    assert "error: service email runs already as instance 'default'" in second.stderr
    assert first.terminate() == 0


def test_what_the_import_left_open_is_named(start: Start) -> None:
    service = start("fitting")
    service.wait_log("opened sockets, which workers won't have")


def test_a_pool_whose_processes_do_not_go_is_an_error_after_a_while(start: Start, home: Home) -> None:
    first = start("fitting")
    first.wait_log("worker email.welcome/1 ready")
    assert first.terminate() == 0
    (board,) = home.state.glob("busworker/*/welcome.board")
    with board.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        begun = time.monotonic()
        second = start("fitting")
        assert second.wait() == 78
    assert time.monotonic() - begun >= 5
    assert f"processes of an earlier run still hold {board}" in second.stderr


@pytest.mark.parametrize(
    ("status", "expected", "text"),
    [
        (0, Death(None, 0), "exit code 0"),
        (3 << 8, Death(None, 3), "exit code 3"),
        (9, Death("SIGKILL", None), "SIGKILL"),
        (11 | 0x80, Death("SIGSEGV", None), "SIGSEGV"),  # with a core dump
        (40, Death("SIG40", None), "SIG40"),
    ],
)
def test_a_wait_status_is_read(status: int, expected: Death, text: str) -> None:
    assert death(status) == expected
    assert str(death(status)) == text
