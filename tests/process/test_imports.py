"""What each process loads: its own layer, and none of what belongs to another. Each in a fresh interpreter."""

import functools
import json
import subprocess
import sys

import pytest

BROKERS = {"kombu", "amqp", "vine", "apsw", "busworker.broker", "busworker.transports"}
TERMINAL = {"click", "rich", "busworker.cli"}
HEAVY = BROKERS | TERMINAL | {"psutil", "multiprocessing", "platformdirs"}
PROCESSES = {"busworker.supervisor", "busworker.consumer", "busworker.worker"}


@functools.cache
def loaded(code: str) -> frozenset[str]:
    """The modules that a fresh interpreter holds after that code, beyond those it starts with."""
    program = (
        f"import json, sys; before = set(sys.modules); {code}; print(json.dumps([*(sys.modules.keys() - before)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return frozenset(json.loads(done.stdout.splitlines()[-1]))


def found(code: str, packages: set[str]) -> set[str]:
    """Which of these packages that code loads, or parts of."""
    return {package for package in packages for module in loaded(code) if f"{module}.".startswith(f"{package}.")}


def test_the_package_alone_is_one_module() -> None:
    code = "import busworker"
    assert {module for module in loaded(code) if module.startswith("busworker")} == {"busworker"}
    assert found(code, HEAVY | {"msgspec", "asyncio", "ssl", "logging", "subprocess"}) == set()


def test_declaring_an_application_loads_no_broker_and_no_process() -> None:
    code = "from busworker import *; bus = Bus('a'); bus.channel('c').subscribe(Topic('t', int))(print)"
    assert found(code, HEAVY | PROCESSES | {"busworker.publisher"}) == set()


@pytest.mark.parametrize("process", ["supervisor", "worker"])
def test_supervisor_and_worker_hold_no_broker_and_not_each_other(process: str) -> None:
    package = f"busworker.{process}"
    forbidden = BROKERS | TERMINAL | (PROCESSES - {package}) | {"multiprocessing", "sqlite3"}
    assert found(f"import {package}.main", forbidden) == set()
    assert found(f"import {package}.main", {package}) == {package}


def test_the_consumer_holds_neither_supervisor_nor_worker_nor_terminal() -> None:
    code = "import busworker.consumer.main"
    assert found(code, TERMINAL | PROCESSES | {"multiprocessing"}) == {"busworker.consumer"}
    assert found(code, {"kombu"}) == {"kombu"}


def test_the_process_that_forks_all_others_holds_neither_broker_nor_terminal() -> None:
    assert found("import busworker.run", BROKERS | TERMINAL | {"busworker.consumer", "busworker.worker"}) == set()


def test_http_holds_no_broker_and_nobody_else_holds_what_it_serves_metrics_with() -> None:
    forbidden = BROKERS | TERMINAL | PROCESSES | {"psutil", "sqlite3"}
    assert found("import busworker.http.main", forbidden) == set()
    assert found("import busworker.run, busworker.worker.main", {"prometheus_client", "busworker.http"}) == set()


def test_the_command_line_alone_is_cheap() -> None:
    assert found("import busworker.cli", HEAVY) == {"busworker.cli"}
    assert found("import busworker.cli, busworker.cli.commands", HEAVY | {"msgspec", "asyncio"}) == {
        "busworker.cli",
        "click",
    }


@pytest.mark.parametrize("command", ["status", "stop", "scale"])
def test_commands_to_a_running_service_load_no_broker(command: str) -> None:
    """With `--help` the command line takes its whole way to the command, as it does before every answer."""
    code = f"from busworker.cli.ending import run; run(['{command}', '--help'])"
    assert found(code, BROKERS | {"busworker.bus", "asyncio", "multiprocessing"}) == set()
    assert found(code, {"busworker.cli.service"}) == {"busworker.cli.service"}


def test_a_probe_loads_even_less() -> None:
    code = "from busworker.cli.ending import run; run(['health', '--help'])"
    assert found(code, BROKERS | {"psutil", "busworker.bus", "busworker.application"}) == set()
    assert found(code, {"busworker.cli.service", "busworker.cli.health"}) == {"busworker.cli.health"}


@pytest.mark.parametrize("command", ["start", "check"])
def test_commands_about_an_application_load_no_broker(command: str) -> None:
    assert found(f"from busworker.cli.ending import run; run(['{command}', '--help'])", BROKERS) == set()


def test_no_process_but_the_terminals_loads_the_command_line() -> None:
    for module in ("supervisor.main", "consumer.main", "worker.main", "publisher", "deadletters", "application"):
        assert found(f"import busworker.{module}", {"busworker.cli"}) == set(), module
