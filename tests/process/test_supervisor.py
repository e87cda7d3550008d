"""The supervisor with a scripted consumer and worker: it forks, tells, kills, restarts and stops."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import busworker
from busworker.ipc.scoreboard import Owed, Scoreboard
from tests.support import Home, Service, alive, wait_until
from tests.support.processes import Member

Start = Callable[..., Service]


@pytest.fixture
def start(home: Home) -> Iterator[Start]:
    """Starts a supervised, scripted pool; kills what is left of it at the end."""
    services: list[Service] = []

    def start(script: str = "work", workers: int = 1, *, ready: bool = True, **variables: str) -> Service:
        paths = [str(Path(busworker.__file__).parents[1]), str(Path(__file__).parents[2])]
        number = len(services)
        stdout, stderr = home.logs / f"{number}.stdout", home.logs / f"{number}.stderr"
        with stdout.open("wb") as out, stderr.open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.process.supervised", str(home.state), str(workers)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=home.env | {"PYTHONPATH": os.pathsep.join(paths), "SCRIPT": script} | variables,
                start_new_session=True,
            )
        services.append(Service(process, stdout, stderr))
        if ready:
            begun = services[-1]
            wait_until(lambda: all(f"m{n}-1 begins" in begun.stderr for n in range(workers)), 20.0, begun._told)
        return services[-1]

    yield start
    for service in services:
        service.kill_tree()


def ask(home: Home, command: str, **arguments: object) -> dict[str, object]:
    """The answer of the control socket."""
    with connected(home) as client:
        request = {"version": 1, "command": command, "arguments": arguments}
        client.sendall(json.dumps(request).encode() + b"\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    found: dict[str, object] = json.loads(answer)
    return found


def connected(home: Home) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(str(home.state / "socket"))
    return client


def consumer_of(service: Service) -> Member:
    (found,) = wait_until(lambda: service.tree("consumer"), 10.0, "the consumer")
    return found


def owed(home: Home) -> list[bytes]:
    return sorted(Owed(home.state / "welcome.board").keys)


def keys(*names: str) -> list[bytes]:
    return [name.encode().ljust(16) for name in names]


def test_processes_are_named_and_keep_only_their_own_descriptors(start: Start) -> None:
    service = start("hang", workers=2)
    titles = sorted(member.title for member in service.tree() if member.role in ("consumer", "worker"))
    assert titles == [
        "busworker: consumer email.welcome",
        "busworker: worker email.welcome/1 idle",
        "busworker: worker email.welcome/2 idle",
    ]
    common = 5  # the scoreboard's own, its map's, its lock's, the file for stacks, and the log
    assert f"the consumer has {common + 1} descriptors" in service.stderr
    assert service.stderr.count(f"a worker has {common + 3} descriptors") == 2


def test_the_consumer_is_told_of_a_crash_before_the_replacement(start: Start) -> None:
    service = start("crash")
    service.wait_log("told: 0/1 SIGSEGV died 0")
    service.wait_log("told: 0/2 SIGSEGV died 0")
    assert "executing message m0-1" in service.stderr
    assert "replacement starts in" not in service.stderr


def test_workers_that_fail_at_their_start_wait_longer_each_time(start: Start) -> None:
    service = start("fail", ready=False)
    for delay in ("0.1", "0.2", "0.4"):
        service.wait_log(f"exit code 3, its replacement starts in {delay} s")


def test_a_worker_over_its_limit_is_killed_for_that_message(start: Start) -> None:
    service = start("hang", LIMIT="0.3")
    service.wait_log("told: 0/1 SIGKILL time_limit 1")
    service.wait_log("told: 0/2 SIGKILL time_limit 2")


def test_time_in_which_the_supervisor_was_stopped_does_not_count(start: Start) -> None:
    service = start("hang", LIMIT="2")
    service.signal(signal.SIGSTOP)
    time.sleep(3.0)  # time is what is tested here: longer than the limit
    service.signal(signal.SIGCONT)
    service.wait_log("all deadlines move by as much")
    assert "told:" not in service.stderr
    service.wait_log("told: 0/1 SIGKILL time_limit 1")


def test_a_dead_consumer_takes_its_workers_and_leaves_what_is_owed(start: Start, home: Home) -> None:
    service = start("hang", workers=2)
    before = {member.pid for member in service.tree("worker")}
    os.kill(consumer_of(service).pid, signal.SIGKILL)
    service.wait_log("2 messages were executing or not settled")
    wait_until(lambda: service.stderr.count(" begins") == 4, 20.0, service._told)
    assert owed(home) == keys("0-1", "1-1")
    assert not before & {member.pid for member in service.tree("worker")}


def test_a_drain_lets_finish_and_exits_0(start: Start, home: Home) -> None:
    service = start("work", workers=2)
    assert service.terminate() == 0
    assert owed(home) == []
    board = Scoreboard(home.state / "welcome.board", 0)
    assert board.open_keys() == []
    assert board.lock()
    board.close()
    assert not (home.state / "socket").exists()


def test_what_still_executes_when_the_grace_is_over_is_not_charged(start: Start, home: Home) -> None:
    service = start("hang", GRACE="0.3")
    assert service.terminate() == 75
    assert "told: 0/1 SIGKILL stopped 0" in service.stderr
    assert owed(home) == []


def test_a_second_term_stops_at_once(start: Start) -> None:
    service = start("hang")
    service.signal(signal.SIGTERM)
    service.wait_log("draining")
    assert service.terminate() == 75
    assert "told: 0/1 SIGKILL stopped 0" in service.stderr


def test_what_was_stopped_is_not_charged_even_if_the_consumer_hangs(start: Start, home: Home) -> None:
    service = start("hang")
    os.kill(consumer_of(service).pid, signal.SIGSTOP)
    service.signal(signal.SIGQUIT)
    assert service.wait() == 75
    assert owed(home) == []


def test_a_killed_supervisor_leaves_nobody_and_its_successor_writes_down_what_is_owed(start: Start, home: Home) -> None:
    service = start("hang", workers=2)
    left = [member.pid for member in service.tree()]
    service.kill()
    wait_until(lambda: not any(alive(pid) for pid in left), 5.0, "their end")
    start("work")
    assert owed(home) == keys("0-1", "1-1")


def test_what_a_handler_forked_does_not_hold_the_pools_lock(start: Start, home: Home) -> None:
    service = start("fork")
    forked = int(service.wait_log("forked ").split()[-2])
    (undertaker,) = wait_until(
        lambda: [member.pid for member in service.tree() if "undertaker" in member.title], 10, "it has its title"
    )
    os.kill(undertaker, signal.SIGSTOP)  # else it would end what is forked
    service.kill()
    board = Scoreboard(home.state / "welcome.board", 0)
    wait_until(board.lock, 5.0, "the lock")
    board.close()
    assert alive(forked)
    os.kill(undertaker, signal.SIGCONT)
    wait_until(lambda: not alive(forked), 1.0, "its end")


def test_status_tells_of_workers_and_counts(start: Start, home: Home) -> None:
    service = start("hang", workers=2)
    answer = ask(home, "status")
    (channel,) = answer["result"]["channels"]  # type: ignore[index,call-overload]
    assert answer["result"]["state"] == channel["state"] == "running"  # type: ignore[index,call-overload]
    assert [channel[name] for name in ("ready", "waiting", "dead", "in_flight")] == [1, 2, 3, 4]
    assert channel["subscriptions"] == ["t/email.welcome"]
    shown = [(worker["slot"], worker["state"], worker["message"]) for worker in channel["workers"]]
    assert shown == [(1, "executing", "m0-1"), (2, "executing", "m1-1")]
    assert all(worker["since"] >= answer["result"]["started_at"] for worker in channel["workers"])  # type: ignore[index,call-overload]
    assert service.exit_code is None


def test_a_consumer_that_does_not_answer_leaves_nulls_in_the_status(start: Start, home: Home) -> None:
    service = start("hang")
    os.kill(consumer_of(service).pid, signal.SIGSTOP)
    (channel,) = ask(home, "status")["result"]["channels"]  # type: ignore[index,call-overload]
    assert [channel[name] for name in ("ready", "waiting", "dead", "in_flight")] == [None] * 4


def test_slow_and_rude_clients_harm_nobody(start: Start, home: Home) -> None:
    service = start("work")
    rude = [connected(home) for _ in range(50)]
    rude[0].sendall(b"{")
    rude[1].sendall(b"x" * 60_000)
    rude[2].close()
    assert ask(home, "identify")["ok"] is True
    rude[3].sendall(b"no json\n")
    assert b'"ok":false' in rude[3].recv(65536).replace(b" ", b"")
    assert rude[4].recv(1) == b"", "a silent client is dropped"
    for client in rude:
        client.close()
    assert service.exit_code is None


def test_scaling_changes_the_number_of_workers(start: Start, home: Home) -> None:
    service = start("work")
    assert ask(home, "scale", channel="welcome", processes=3)["ok"] is True
    wait_until(lambda: len(service.tree("worker")) == 3, 10.0, "3 workers")
    service.signal(signal.SIGTTOU)
    wait_until(lambda: len(service.tree("worker")) == 2, 10.0, "2 workers")
    assert ask(home, "scale", channel="other", processes=3)["exit_code"] == 66
    assert ask(home, "scale", channel="welcome", processes=0)["exit_code"] == 2


def test_stop_drains(start: Start, home: Home) -> None:
    service = start("work")
    assert ask(home, "stop")["ok"] is True
    assert service.wait() == 0
