"""Nothing outlives its supervisor or worker for a second, whatever a handler did; and a fork is no second worker."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support import Service, Stage, wait_until
from tests.support.processes import Member, alive
from tests.support.waiting import slowdown

SOON = 1.0
"""Seconds within which nothing may be left, on a machine that has time for us."""
APP = """
import ctypes, multiprocessing, os, signal, subprocess, sys, time
from contextlib import suppress
from busworker import Bus, RetryPolicy, Topic
from recording import record, wait_for

bus = Bus("shop")
libc = ctypes.CDLL(None)
STUBBORN = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 15)]; time.sleep(600)"
SLEEP = [sys.executable, "-c", STUBBORN]
DAEMON = "echo child - 0 $$ >> record; trap '' TERM HUP INT; sleep 600; sleep 600"

def ignore():
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError):
            signal.signal(number, signal.SIG_IGN)

def linger():
    ignore()
    record("child")
    time.sleep(600)

def run(*command, **options):
    pid = subprocess.Popen([*command], **options).pid
    os.write(os.open("record", os.O_WRONLY | os.O_APPEND), f"child - 0 {pid}\\n".encode())

def do(deed):
    match deed:
        case "sleep": pass
        case "ignores": ignore()
        case "blocks": signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        case "undoes":
            ignore()
            libc.prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG
        case "holds":
            libc.prctl(1, 0, 0, 0, 0)
            record("done")
            ctypes.PyDLL(None).sleep(600)  # with the interpreter's lock held
        case "forks":
            if os.fork() == 0:
                linger()
        case "multiprocessing": multiprocessing.Process(target=linger).start()
        case "daemon":
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    linger()
                os._exit(0)
            os.wait()
        case "runs": run(*SLEEP)
        case "runs-bare": run(*SLEEP, env={})
        case "runs-apart": run(*SLEEP, start_new_session=True)
        case "runs-a-daemon": subprocess.run(["setsid", "-f", "sh", "-c", DAEMON])

@bus.channel("pool").subscribe(Topic("work", str), time_limit=None, retry=RetryPolicy(2, delays=(0,)))
def handle(event, message):
    record("begin", event, message.attempt)
    if event != "nothing" and message.attempt == 1:
        do(event)
        record("done")
        time.sleep(600)
"""
DEEDS = [
    "sleep", "ignores", "blocks", "undoes", "holds", "forks", "multiprocessing", "daemon",
    "runs", "runs-bare", "runs-apart", "runs-a-daemon",
]  # fmt: skip
STARTING = DEEDS[5:]


def deeds(all_deeds: Sequence[str], *on_amqp: str) -> pytest.MarkDecorator:
    """Each on the embedded bus, and the hardest on RabbitMQ too: how processes end depends little on the bus."""
    cases = [*(("filesystem", deed) for deed in all_deeds), *(("amqp", deed) for deed in on_amqp)]
    return pytest.mark.parametrize(("broker", "deed"), cases, indirect=["broker"])


def doing(stage: Stage, deed: str) -> tuple[Service, list[int]]:
    """A service whose handler has done that, and the pids of its processes and of what the handler has started."""
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    stage.publish("work", deed)
    lines = 3 if deed in STARTING else 2
    wait_until(lambda: len(stage.record("begin", "done", "child")) >= lines, 20.0, lambda: str(stage.record()))
    started = [line.pid for line in stage.record("child")]
    assert all(alive(pid) for pid in started)
    return service, [member.pid for member in service.tree()] + started


def one(members: list[Member]) -> int:
    (member,) = members
    return member.pid


def wait_gone(pids: list[int]) -> None:
    wait_soon(lambda: [pid for pid in pids if alive(pid)])


def wait_soon(left: Callable[[], object]) -> None:
    began = time.monotonic()
    wait_until(lambda: not left(), 30.0, lambda: f"the end of {left()}")
    took = time.monotonic() - began
    assert took <= SOON or took <= SOON * slowdown()


def worker_and_its(stage: Stage) -> list[int]:
    """The first worker that executed something, and what it has started."""
    return [stage.record("begin")[0].pid, *(line.pid for line in stage.record("child"))]


@deeds(DEEDS, "holds")
@pytest.mark.parametrize("with_consumer", [False, True], ids=["supervisor", "supervisor and consumer"])
def test_a_killed_supervisor_leaves_nothing(stage: Stage, with_consumer: bool, deed: str) -> None:
    service, left = doing(stage, deed)
    killed = [service.pid, *([one(service.tree("consumer"))] if with_consumer else [])]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert service.wait() == -signal.SIGKILL
    wait_gone(left)


@deeds(DEEDS, "holds", "runs-apart")
def test_a_killed_consumer_leaves_nothing(stage: Stage, deed: str) -> None:
    service, _ = doing(stage, deed)
    consumer = one(service.tree("consumer"))
    os.kill(consumer, signal.SIGKILL)
    wait_gone([consumer, *worker_and_its(stage)])
    wait_until(lambda: len(stage.record("begin")) == 2, 20.0, lambda: f"the next attempt\n{service.stderr}")
    assert service.exit_code is None


@deeds(STARTING, "daemon")
def test_what_a_handler_has_started_ends_with_its_worker(stage: Stage, deed: str) -> None:
    service, _ = doing(stage, deed)
    worker, *started = worker_and_its(stage)
    os.kill(worker, signal.SIGKILL)
    wait_gone([worker, *started])
    wait_until(lambda: len(stage.record("begin")) == 2, 20.0, "the next attempt")
    assert service.exit_code is None
    assert "replacement starts in" not in service.stderr


@deeds(STARTING, "runs-apart")
def test_what_a_handler_has_started_ends_with_the_service(stage: Stage, deed: str) -> None:
    service, left = doing(stage, deed)
    service.signal(signal.SIGQUIT)
    assert service.wait() == 75
    assert [pid for pid in left if alive(pid)] == []


def test_what_other_workers_have_started_runs_on(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop", "--processes", "2")
    stage.publish("work", "daemon")
    wait_until(lambda: len(stage.record("child", "done")) == 2, 20.0, "the daemon")
    (daemon,) = [line.pid for line in stage.record("child")]
    busy = stage.record("begin")[0].pid
    (other,) = [member.pid for member in service.tree("worker") if member.pid != busy]
    for _ in range(3):
        os.kill(other, signal.SIGKILL)
        others = wait_until(lambda: [m.pid for m in service.tree("worker") if m.pid not in (busy, other)], 20.0, "it")  # noqa: B023
        service.wait_log(f"died, pid {other}")
        (other,) = others
    assert alive(daemon)
    service.signal(signal.SIGQUIT)
    assert service.wait() == 75
    assert not alive(daemon)


def test_the_next_start_ends_what_a_killed_tree_has_left(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    service, left = doing(stage, "runs-apart")
    undertaker = next(member.pid for member in service.tree() if "undertaker" in member.title)
    os.kill(undertaker, signal.SIGSTOP)  # else it would be replaced
    os.kill(service.pid, signal.SIGKILL)
    os.kill(undertaker, signal.SIGKILL)
    (started,) = [line.pid for line in stage.record("child")]
    wait_gone([pid for pid in left if pid != started])
    assert alive(started)
    again = stage.command.start("start", "shop")
    again.wait_log("the service was killed before; 1 processes that it had left were ended")
    assert not alive(started)
    again.wait_log("worker shop.pool/1 ready")
    again.signal(signal.SIGQUIT)
    assert again.wait() == 75


def test_a_killed_undertaker_is_replaced(stage: Stage) -> None:
    service, left = doing(stage, "runs-apart")
    undertaker = next(member.pid for member in service.tree() if "undertaker" in member.title)
    os.kill(undertaker, signal.SIGKILL)
    wait_until(
        lambda: [m for m in service.tree() if "undertaker" in m.title and m.pid != undertaker], 10.0, "the next one"
    )
    service.kill()
    wait_gone(left)


CRASHING = """
import os
from busworker import Bus
from busworker import Topic
bus = Bus("shop")
@bus.on_worker_start
def leave():
    os._exit(1)
for number in range(20):
    bus.channel(f"c{number}", processes=2).subscribe(Topic("work", str))(print)
"""


@pytest.mark.parametrize("number", range(8))
def test_a_supervisor_that_is_killed_while_it_forks_leaves_nothing(stage: Stage, number: int) -> None:
    stage.home.write("shop.py", CRASHING)
    service = stage.command.start("start", "shop")
    wait_until(lambda: service.stderr.count(" started, pid ") > number * 2, 20.0, "some forks")
    service.kill()
    wait_soon(service.tree)


STOPPING = """
import os, signal
from pathlib import Path
from busworker import Bus, Topic

bus = Bus("shop")

@bus.channel("pool").subscribe(Topic("work", str))
def handle(event, message):
    pass

def stop():
    if Path("stop").exists():
        os.kill(os.getpid(), signal.SIGSTOP)

os.register_at_fork(after_in_child=stop)
"""


@pytest.mark.parametrize("role", ["worker", "consumer"])
def test_a_killed_supervisor_leaves_no_child_that_was_stopped_as_soon_as_it_was_forked(stage: Stage, role: str) -> None:
    stage.home.write("shop.py", STOPPING)
    service = stage.start("shop")
    stage.home.write("stop", "")
    os.kill(one(service.tree(role)), signal.SIGKILL)

    def stopped() -> list[int]:
        return [member.pid for member in service.tree("supervisor") if member.pid != service.pid]

    assert wait_until(stopped, 20.0, lambda: f"a child without a title of its own\n{service.tree()}")
    service.kill()
    wait_soon(service.tree)


# A fork is no second worker

FORKING = """
import multiprocessing, os, sys
from busworker import Bus, RetryPolicy, Topic
from recording import record

bus = Bus("shop")
noted = Topic("noted", str)

def other():
    record("other")
    bus.publish(noted, "from the child")

@bus.channel("pool").subscribe(Topic("work", str), retry=RetryPolicy(1))
def handle(event, message):
    record("begin", event, message.attempt)
    match event:
        case "returns": child = os.fork()
        case "raises":
            child = os.fork()
            if not child: raise ValueError
        case "exits":
            child = os.fork()
            if not child: sys.exit(3)
        case "outlives":
            child = os.fork()
            if child: return
        case "parent-exits":
            child = os.fork()
            if child: os._exit(4)
        case "publishes-at-once":
            child = os.fork()
            if not child:
                bus.publish(noted, "from the child", immediately=True)
        case "multiprocessing":
            process = multiprocessing.Process(target=other)
            process.start()
            process.join()
            record("code", str(process.exitcode))
            child = 0
        case _: child = 0
    if child:
        record("status", str(os.waitpid(child, 0)[1]))

@bus.channel("notes").subscribe(noted)
def note(event, message):
    record("noted", "-", message.attempt)
"""
FORKS = ["returns", "raises", "exits", "outlives", "parent-exits", "publishes-at-once", "multiprocessing"]


@deeds(FORKS, "outlives", "parent-exits")
def test_a_child_that_a_handler_forked_settles_nothing_and_takes_no_message(stage: Stage, deed: str) -> None:
    stage.home.write("shop.py", FORKING)
    service = stage.start("shop")
    stage.publish("work", deed, *(str(number) for number in range(20)))
    pool = stage.wait_empty("shop")["pool"]
    died = deed == "parent-exits"
    assert (pool["processed"], pool["failed"], pool["dead"]) == (21 - died, int(died), int(died))
    begun = stage.record("begin")
    assert sorted(line.event for line in begun) == sorted([deed, *(str(number) for number in range(20))])
    workers = {int(line.split("pid ")[1]) for line in service.stderr.splitlines() if "worker shop.pool/1 ready" in line}
    assert {line.pid for line in begun} <= workers
    assert stage.record("noted") == []
    if deed == "multiprocessing":
        assert [line.event for line in stage.record("code")] == ["0"]
    assert service.terminate() == 0


def test_title_of_what_a_handler_forked_says_so(stage: Stage) -> None:
    service, _ = doing(stage, "forks")
    (started,) = [line.pid for line in stage.record("child")]
    title = Path(f"/proc/{started}/cmdline").read_bytes()
    assert title.startswith(b"busworker: started by worker shop.pool/1 (")
    assert len(service.tree("worker")) == 1
    service.signal(signal.SIGQUIT)
    assert service.wait() == 75
