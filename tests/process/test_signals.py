"""The supervisor's signals through the real command: stops, also while it starts or is in trouble, workers, stacks."""

import os
import signal
import socket
import time
from collections.abc import Iterator

import psutil
import pytest

from busworker.consumer.adopting import EVERY
from tests.support import Service, Stage, wait_until
from tests.support.transports import on

APP = """
import ctypes, os, signal, time
from busworker import Bus, Topic
from recording import record, wait_for

bus = Bus("shop")

@bus.channel("pool", processes=2).subscribe(Topic("work", str), time_limit=None)
def handle(event, message):
    record("begin", event, message.attempt)
    match event:
        case "gated": wait_for("gate")
        case "held": ctypes.PyDLL(None).sleep(600)  # in C, with the interpreter's lock held
        case "default": signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        case "masked": signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    if event in ("default", "masked"):
        record("changed", event, message.attempt)
        time.sleep(600)
"""
SLOW_IMPORT = """
import os, time
open("importing", "w").close()
while not os.path.exists("go"):
    time.sleep(0.005)
"""
HANGING_HOOK = """
@bus.on_worker_start
def hang():
    record("hook")
    time.sleep(600)
"""


def importing(stage: Stage, *args: str) -> Service:
    """A service that is importing its application."""
    stage.home.write("shop.py", SLOW_IMPORT + APP)
    service = stage.command.start("start", "shop", *args)
    wait_until((stage.home.path / "importing").exists, 20.0, "the import")
    return service


@pytest.fixture(params=["refused", "silent"])
def unreachable(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a broker that isn't there: nobody listens, or nobody answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if request.param == "silent":
            held.listen()
        yield f"amqp://127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_or_int_lets_finish_and_gives_the_rest_back(stage: Stage, number: int) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop", "--processes", "1")
    stage.publish("work", "gated", "later")
    stage.wait_recorded(1)
    service.signal(number)
    service.wait_log("draining")
    stage.touch("gate")
    assert service.wait() == 0
    assert [line.event for line in stage.record()] == ["gated"]
    again = stage.start("shop")
    stage.wait_recorded(2)
    assert [(line.event, line.attempt) for line in stage.record()] == [("gated", 1), ("later", 1)]
    assert again.terminate() == 0


@pytest.mark.parametrize(
    ("broker", "second"),
    [
        ("filesystem", signal.SIGTERM),
        ("filesystem", signal.SIGINT),
        ("filesystem", signal.SIGQUIT),
        ("amqp", signal.SIGTERM),
    ],
    indirect=["broker"],
)
def test_a_second_signal_stops_at_once_and_charges_nothing(stage: Stage, second: int) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    stage.publish("work", "gated")
    stage.wait_recorded(1)
    service.signal(signal.SIGTERM)
    service.wait_log("draining")
    service.signal(second)
    assert service.wait(5) == 75
    again = stage.start("shop")
    stage.wait_recorded(2)
    assert [line.attempt for line in stage.record()] == [1, 1]
    stage.touch("gate")
    assert again.terminate() == 0


def test_many_signals_at_once_are_a_stop_at_once(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    stage.publish("work", "gated")
    stage.wait_recorded(1)
    for _ in range(200):
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU, signal.SIGQUIT, signal.SIGTERM):
            if service.exit_code is None:
                service.signal(number)
    assert service.wait(10) == 75


def test_ttin_and_ttou_change_the_workers_of_every_channel(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    for number, workers in ((signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGTTOU, 1)):
        service.signal(number)
        wait_until(lambda: len(service.tree("worker")) == workers, 20.0, f"{workers} workers")  # noqa: B023  called here
    service.signal(signal.SIGTTOU)
    wait_until(lambda: service.stderr.count("channel pool: 1 workers") == 2, 20.0, "the signal")
    assert len(service.tree("worker")) == 1
    assert service.terminate() == 0


# While it starts


@pytest.mark.parametrize("args", [(), ("--no-preload",)], ids=["preload", "no preload"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGQUIT, 75)])
def test_a_stop_while_the_application_is_imported_is_one(
    stage: Stage, number: int, code: int, args: tuple[str, ...]
) -> None:
    service = importing(stage, *args)
    service.signal(number)
    assert service.wait(5) == code
    wait_until(lambda: not service.tree(), 1.0, lambda: f"the end of {service.tree()}")


def test_other_signals_while_the_application_is_imported_are_ignored(stage: Stage) -> None:
    service = importing(stage)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU):
        service.signal(number)
        service.wait_log(f"{signal.Signals(number).name} is ignored while the service starts")
    stage.touch("go")
    service.wait_log("worker shop.pool/2 ready")
    assert service.terminate() == 0


def test_term_at_any_time_of_the_start_ends_it_in_order(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    for text in ("consumer shop.pool started", "worker shop.pool/1 ready", "consumer shop.pool ready"):
        service = stage.command.start("start", "shop")
        service.wait_log(text)
        assert service.terminate() == 0


def test_term_while_the_broker_is_out_of_reach_ends_it_in_order(stage: Stage, unreachable: str) -> None:
    stage.home.write("shop.py", APP)
    service = stage.command.start("start", "shop", "--broker", unreachable)
    service.wait_log("worker shop.pool/2 ready")
    if "refused" in service.stderr:
        service.wait_log("trying again")
    assert service.terminate() == 0


def test_term_while_workers_hang_in_their_start_hooks_is_cut_short(stage: Stage) -> None:
    stage.home.write("shop.py", APP + HANGING_HOOK)
    service = stage.command.start("start", "shop", "--grace", "0.5")
    stage.wait_recorded(2)
    assert service.terminate(5) == 75


# Stacks


def stack_of(service: Service, name: str) -> str:
    """What the log tells after the line that names the process, once it is whole."""
    service.wait_log(f"stack of {name}, pid ")
    after = service.stderr.partition(f"stack of {name}, pid ")[2].splitlines()[1:]
    return "\n".join(after[: next((at for at, line in enumerate(after) if not line.startswith("  ")), len(after))])


def test_usr1_writes_the_stack_of_every_process(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop", "--processes", "3")
    stage.publish("work", "gated", "held")
    stage.wait_recorded(2)
    service.signal(signal.SIGUSR1)
    stacks = [stack_of(service, f"worker shop.pool/{number}") for number in (1, 2, 3)]
    assert 'shop.py", line 12 in handle' in "".join(stacks)
    assert 'shop.py", line 13 in handle' in "".join(stacks), service.stderr
    assert sum("in next_order" in stack for stack in stacks) == 1
    assert "consumer/main.py" in stack_of(service, "consumer shop.pool")
    assert "supervisor/main.py" in stack_of(service, "supervisor")
    stage.touch("gate")
    service.signal(signal.SIGQUIT)
    assert service.wait() == 75


def test_a_worker_that_would_die_of_usr1_is_spared(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    stage.publish("work", "default", "masked")
    stage.wait_recorded(4)
    service.signal(signal.SIGUSR1)
    service.wait_log("it doesn't handle SIGUSR1 any more: the application has changed that")
    service.wait_log("it blocks SIGUSR1")
    assert len(service.tree("worker")) == 2
    service.signal(signal.SIGUSR1)
    service.signal(signal.SIGQUIT)
    assert service.wait() == 75
    assert {line.attempt for line in stage.record()} == {1}


def test_a_stopped_process_holds_up_no_other_stack(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    (consumer,) = service.tree("consumer")
    os.kill(consumer.pid, signal.SIGSTOP)
    service.signal(signal.SIGUSR1)
    service.wait_log(f"no stack of consumer shop.pool, pid {consumer.pid}: it is stopped")
    assert "in next_order" in stack_of(service, "worker shop.pool/2")
    os.kill(consumer.pid, signal.SIGCONT)
    assert service.terminate() == 0


@on("amqp")
def test_a_drain_that_takes_long_costs_no_time(stage: Stage) -> None:
    """Longer than anything that a consumer looks for from time to time, and doesn't while it drains."""
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    stage.publish("work", "gated")
    stage.wait_recorded(1)
    service.signal(signal.SIGTERM)
    service.wait_log("/2 ended")
    (consumer,) = service.tree("consumer")
    used = psutil.Process(consumer.pid).cpu_times
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > EVERY + 0.5, EVERY + 5, "the time of the next look")
    before = used()
    wait_until(lambda: time.monotonic() - began > EVERY + 2.5, EVERY + 5, "two more seconds")
    spent = used().user + used().system - before.user - before.system
    stage.touch("gate")
    assert service.wait() == 0
    assert spent < 0.2, "a loop that never waits"
