"""`busworker start`, `status`, `scale` and `stop`, on a real service; and how one of several is chosen."""

import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest

from busworker.cli.choosing import Wanted, choose
from busworker.cli.start import workers
from busworker.declaration import ChannelSpec, ServiceSpec
from busworker.ipc.control import Instance, NotAnswering, NotRunning
from tests.support import Command, Home, Service, wait_until

APP = """
from busworker import Bus, Topic
bus = Bus("email")
@bus.channel("welcome", processes=2).subscribe(Topic("user.registered", dict[str, int]))
def send(event): pass
@bus.channel("audit").subscribe(Topic("user.registered", dict[str, int]))
def note(event): pass
"""
STATUS_KEYS = ["service", "instance", "broker", "state", "pid", "started_at", "spool", "channels"]
CHANNEL_KEYS = [
    *("name", "state", "trouble", "paused_until", "processes", "ready", "in_flight", "waiting"),
    *("dead", "oldest", "rate", "last_error", "processed", "failed", "subscriptions", "workers"),
]


@pytest.fixture
def app(home: Home) -> str:
    """An application with the channels welcome and audit."""
    home.write("app.py", APP)
    return "app"


def running(command: Command, service: Service, *args: str) -> None:
    """Waits until `status` says that the service runs."""

    def state() -> bool:
        assert service.exit_code is None, service.stderr
        done = command.run("status", "--json", *args)
        return done.returncode == 0 and json.loads(done.stdout)["state"] == "running"

    wait_until(state, 30, "the state running")


def test_a_service_is_shown_scaled_and_stopped(command: Command, app: str) -> None:
    service = command.start("start", app)
    running(command, service)
    shown = json.loads(command.run("status", "--json").stdout)
    assert list(shown) == STATUS_KEYS
    assert all(list(channel) == CHANNEL_KEYS for channel in shown["channels"])
    assert "welcome/2" in command.run("status", "--service", "email").stdout
    env = {"BUSWORKER_APP": "does.not.exist"}  # an application is never imported for a probe
    for probe in ("live", "ready", "startup"):
        assert command.run("health", probe, env=env).stdout == f"{probe}: email (instance default) is running\n"
    assert command.run("health", "--service", "mail").returncode == 69
    assert command.run("scale", "audit=3").stdout == "audit=3\n"
    assert command.run("scale", "nope=3").returncode == 66
    wait_until(lambda: "audit/3" in command.run("status").stdout, 20, "three workers")
    assert command.run("start", app).returncode == 73
    assert command.run("stop").stdout == "stopped email (instance default)\n"
    assert service.exit_code == 0
    assert command.run("status").returncode == 69
    assert command.run("stop").returncode == 69


def test_channels_and_numbers_are_chosen_at_the_start(command: Command, app: str) -> None:
    service = command.start("start", app, "--channel", "audit=2", "--instance", "blue", "--no-preload")
    running(command, service)
    (channel,) = json.loads(command.run("status", "--json", "--instance", "blue").stdout)["channels"]
    assert (channel["name"], channel["processes"], len(channel["workers"])) == ("audit", 2, 2)
    done = command.run("status", "--app", app)
    assert (done.returncode, "email (instance blue" in done.stderr) == (69, True)
    command.run("stop", "--no-wait")
    assert service.wait() == 0


def test_a_service_whose_supervisor_is_stopped_is_named(command: Command, app: str) -> None:
    service = command.start("start", app)
    running(command, service)
    service.signal(signal.SIGSTOP)
    asked = ["status", "stop", "scale audit=3", "status --service email", "health live"]
    with ThreadPoolExecutor(len(asked)) as at_once:  # each waits for some seconds
        answers = list(at_once.map(lambda args: command.run(*args.split()), asked))
    for args, done in zip(asked, answers, strict=True):
        assert (done.returncode, done.stdout) == (69, ""), args
        assert done.stderr.startswith(
            "busworker: service email (instance default) doesn't answer: its supervisor, process "
        )
        assert f"process {service.pid}, is stopped (kill -CONT {service.pid}) or hangs" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    service.signal(signal.SIGCONT)
    assert service.terminate() == 0


def test_a_second_start_names_the_process_of_the_first(command: Command, app: str) -> None:
    service = command.start("start", app)
    running(command, service)
    again = command.run("start", app)
    assert again.returncode == 73
    assert f"runs already as instance 'default' on this broker (process {service.pid})" in again.stderr
    assert service.terminate() == 0


# Pure choices

ONE = Instance("email", "default", "memory://default", 1, Path("a"))
BLUE = Instance("email", "blue", "memory://", 2, Path("b"))
SHOP = Instance("shop", "default", "amqp://u:***@h", 3, Path("c"))


@pytest.mark.parametrize(
    ("found", "wanted", "chosen"),
    [
        ([ONE], Wanted(), ONE),
        ([ONE, BLUE], Wanted(instance="blue"), BLUE),
        ([ONE, SHOP], Wanted(service="shop"), SHOP),
        ([ONE, SHOP], Wanted(broker="amqp://u:p@h:5672//"), SHOP),
        ([ONE, SHOP], Wanted(broker="memory://"), ONE),
    ],
)
def test_the_service_that_fits_is_chosen(found: list[Instance], wanted: Wanted, chosen: Instance) -> None:
    assert choose(found, wanted) is chosen


SILENT = Instance("email", "default", "memory://default", 8, Path("a"), silent=True)
NAMELESS = Instance("", "", "", 9, Path("d"), silent=True)


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        ([SILENT], Wanted(), "service email (instance default) doesn't answer: its supervisor, process 8, is stopped"),
        ([SILENT, BLUE], Wanted(instance="default"), "service email (instance default) doesn't answer"),
        ([NAMELESS], Wanted(service="email"), "the service at d doesn't answer: its supervisor, process 9, is"),
        ([NAMELESS, SHOP], Wanted(service="email"), "the service at d doesn't answer"),
    ],
)
def test_one_that_does_not_answer_is_named(found: list[Instance], wanted: Wanted, said: str) -> None:
    with pytest.raises(NotAnswering, match=re.escape(said)):
        choose(found, wanted)


def test_one_that_does_not_say_who_it_is_stands_in_nobodys_way() -> None:
    assert choose([NAMELESS, SHOP], Wanted(service="shop")) is SHOP


def test_several_that_fit_are_named() -> None:
    with pytest.raises(click.UsageError) as caught:
        choose([ONE, BLUE, SHOP], Wanted())
    assert "email (instance blue, memory://), email (instance default, memory://default), shop" in str(caught.value)


def test_none_that_fits_names_those_that_run() -> None:
    with pytest.raises(NotRunning, match=r"service mail.*running: shop"):
        choose([SHOP], Wanted(service="mail"))
    with pytest.raises(NotRunning, match="no service runs here: busworker start"):
        choose([], Wanted())


@pytest.mark.parametrize(
    ("channels", "processes", "numbers"),
    [
        ([], None, {"a": 1, "b": 2}),
        ([], 5, {"a": 5, "b": 5}),
        ([("b", None)], None, {"b": 2}),
        ([("b", 7), ("a", None)], 5, {"b": 7, "a": 5}),
    ],
)
def test_the_numbers_of_workers(
    channels: list[tuple[str, int | None]], processes: int | None, numbers: dict[str, int]
) -> None:
    spec = ServiceSpec("s", (ChannelSpec("a", 1, 1, None, None, ()), ChannelSpec("b", 2, 1, None, None, ())))
    assert workers(spec, channels, processes) == numbers
