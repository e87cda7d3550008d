"""What a service manager is told, and when."""

import os
import socket

import pytest

from busworker.supervisor.manager import Manager, Reporting
from busworker.supervisor.notices import EXTEND_EVERY, SHORTEST, STATUS_EVERY, Facts, Notices

STARTING = Facts(False, False, False, "starting")
RUNNING = Facts(True, False, False, "running")
CHECKING = Facts(True, True, False, "running")
RENEWING = Facts(False, True, False, "draining")
FAILING = Facts(False, False, False, "failing")
STOPPING = Facts(False, False, True, "draining")
EXTEND = "EXTEND_TIMEOUT_USEC=30000000"


def after(*facts: Facts) -> Notices:
    """One that has been told these, at the time 0."""
    notices = Notices(None)
    for fact in facts:
        notices.due(fact, 0.0)
    return notices


def test_it_is_ready_once_and_that_is_never_taken_back() -> None:
    notices = Notices(None)
    assert notices.due(STARTING, 0.0) == ["STATUS=starting", EXTEND]
    assert notices.due(RUNNING, 0.1) == ["READY=1", "STATUS=running"]
    assert notices.due(FAILING, 5.0) == ["STATUS=failing"]
    assert notices.due(RUNNING, 9.0) == ["STATUS=running"]
    assert notices.due(RUNNING, 9.0) == []
    assert notices.next_due == float("inf")


def test_a_start_that_waits_for_its_broker_and_a_drain_ask_for_more_time() -> None:
    notices = after(STARTING)
    assert notices.due(STARTING, EXTEND_EVERY - 0.1) == []
    assert notices.next_due == EXTEND_EVERY
    assert notices.due(STARTING, EXTEND_EVERY) == [EXTEND]
    notices = after(STARTING, RUNNING)
    assert notices.due(STOPPING, 60.0) == ["STOPPING=1", "STATUS=draining", EXTEND]
    assert notices.due(STOPPING, 60.0 + EXTEND_EVERY) == [EXTEND]


def test_a_reload_says_when_it_began_and_that_it_is_over() -> None:
    notices = after(RUNNING)
    assert notices.reload(12.5) == ["RELOADING=1", "MONOTONIC_USEC=12500000"]
    assert notices.due(CHECKING, 12.6) == [EXTEND]
    assert notices.due(RENEWING, 13.0) == ["STATUS=draining"]


@pytest.mark.parametrize("now", [RUNNING, FAILING], ids=["running", "failing"])
def test_a_reload_that_is_refused_is_over_too(now: Facts) -> None:
    notices = after(RUNNING)
    notices.reload(1.0)
    notices.due(CHECKING, 1.0)
    assert "READY=1" in notices.due(now, 2.0)


def test_a_stop_during_a_reload_is_a_stop() -> None:
    notices = after(RUNNING)
    notices.reload(1.0)
    notices.due(RENEWING, 1.0)
    assert "STOPPING=1" in notices.due(STOPPING, 2.0)
    assert "STOPPING=1" not in notices.due(STOPPING, 3.0)


def test_a_status_that_changes_all_the_time_is_told_once_a_second() -> None:
    notices = after(RUNNING)
    assert notices.due(FAILING, STATUS_EVERY / 2) == []
    assert notices.next_due == STATUS_EVERY
    assert notices.due(FAILING, STATUS_EVERY) == ["STATUS=failing"]


def test_a_watchdog_hears_from_us_at_half_its_time() -> None:
    notices = Notices(30.0)
    assert "WATCHDOG=1" in notices.due(RUNNING, 100.0)
    assert notices.next_due == 115.0
    assert notices.due(RUNNING, 114.9) == []
    assert notices.due(RUNNING, 115.0) == ["WATCHDOG=1"]


def test_a_watchdog_that_nobody_can_keep_takes_no_whole_core() -> None:
    notices = Notices(0.000001)
    notices.due(RUNNING, 100.0)
    assert notices.next_due == 100.0 + SHORTEST


@pytest.mark.parametrize(
    ("environ", "manager"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": "/run/n"}, Manager("/run/n", None)),
        ({"NOTIFY_SOCKET": "@n"}, Manager("\0n", None)),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000"}, Manager("/n", 3.0)),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "42"}, Manager("/n", 3.0)),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "43"}, Manager("/n", None)),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "soon"}, Manager("/n", None)),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "9" * 400}, Manager("/n", None)),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "0"}, Manager("/n", None)),
        ({"NOTIFY_SOCKET": "vsock:2:9"}, None),
        ({"WATCHDOG_USEC": "3000000"}, None),
    ],
)
def test_the_manager_is_taken_from_the_environment(environ: dict[str, str], manager: Manager | None) -> None:
    left = environ | {"OTHER": "1"}
    assert Manager.taken(left, 42) == manager
    assert left == {"OTHER": "1"}


def test_an_abstract_socket_and_one_that_is_full_or_gone(caplog: pytest.LogCaptureFixture) -> None:
    name = f"\0busworker-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        reporting = Reporting(Manager(name, None))
        for number in range(1000):  # many times what an unread socket takes (net.unix.max_dgram_qlen)
            reporting.reload(float(number))
        reporting.turn(RUNNING, 1000.0)
        assert sock.recv(1000) == b"RELOADING=1\nMONOTONIC_USEC=0"
        sock.setblocking(False)
        reporting.turn(RUNNING, 1001.0)
        with pytest.raises(BlockingIOError):
            while sock.recv(1000):
                reporting.turn(RUNNING, 1001.0)
    assert caplog.records == []
    for number in range(3):
        reporting.reload(float(number))
    assert [record.getMessage() for record in caplog.records] == [
        "the service manager can't be told anything: [Errno 111] Connection refused"
    ]
