"""`busworker demo`: a whole story on real services, and what it leaves behind."""

import json
import re
import signal
from pathlib import Path

import psutil
import pytest

from tests.support import Command, alive, wait_until
from tests.support.embedded import memory_url


def told(stderr: str, stdout: str) -> tuple[str, Path]:
    """The bus and the folder that a demo names."""
    broker = re.search(r"--broker '([^']+)'", stdout)
    folder = re.search(r"the logs are in (\S+)", stderr)
    assert broker
    assert folder
    return broker[1], Path(folder[1])


def rows(stdout: str) -> dict[str, list[str]]:
    """The table at the end: the cells of each service."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in stdout.splitlines()]
    return {line[0]: line[1:] for line in lines if line[0] in ("email", "points", "log", "campaign")}


def test_every_event_is_accounted_for(command: Command) -> None:
    first = command.run("demo", "--messages", "400", timeout=100)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == "lost 0"
    table = rows(first.stdout)
    assert table["email"][:2] == ["400", "396"]
    assert sorted(table["email"][3].split(", ")) == ["1 crash", "1 time_limit", "2 exception"]
    assert table["email"][4] == "0"
    assert table["points"] == ["400", "400", "0", "0", "0"]
    assert table["log"] == ["400", "400", "0", "0", "0"]
    received, handled, *_, lost = table["campaign"]
    assert received == handled
    assert int(received) >= 80
    assert lost == "0"
    for step in ("kill -9 of worker email.welcome/", "$ busworker stop --service points", "scale welcome=4"):
        assert step in first.stderr

    broker, folder = told(first.stderr, first.stdout)
    letters = command.run("dead", "list", "user.registered/email.welcome", "--json", "--broker", broker)
    assert sorted(letter["reason"] for letter in json.loads(letters.stdout)) == [
        "crash",
        "exception",
        "exception",
        "time_limit",
    ]
    assert {letter["attempts"] for letter in json.loads(letters.stdout)} == {3}

    second = command.run("demo", "--messages", "1", timeout=60)
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines()[-1] == "lost 0"
    assert not folder.exists()
    assert told(second.stderr, second.stdout)[1].is_dir()


def test_it_runs_on_a_bus_that_is_given(command: Command) -> None:
    with memory_url() as broker_url:
        done = command.run("demo", "--messages", "20", "--broker", broker_url, timeout=100)
    assert done.returncode == 0, done.stderr
    assert f"the bus is {broker_url}," in done.stderr
    assert done.stdout.splitlines()[-1] == "lost 0"


def test_it_runs_on_rabbitmq(command: Command, amqp_url: str) -> None:
    done = command.run("demo", "--messages", "100", "--broker", amqp_url, timeout=110)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "lost 0"
    assert rows(done.stdout)["email"][:2] == ["100", "97"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_ended_demo_leaves_no_process(command: Command, number: signal.Signals) -> None:
    demo = command.start("demo")
    demo.wait_log("a process of its own publishes")
    started = psutil.Process(demo.pid).children(recursive=True)
    assert len(started) >= 11  # three services with a consumer and their workers each, and the publisher
    demo.signal(number)
    assert demo.wait() == {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 75, signal.SIGINT: 130}[number]
    wait_until(lambda: not any(alive(one.pid) for one in started), 15.0, lambda: f"the end of {started}")


def test_a_scheme_that_nobody_knows_is_told_in_one_line(command: Command) -> None:
    done = command.run("demo", "--broker", "kafka://host")
    assert done.returncode == 78
    assert "amqp://" in done.stderr.splitlines()[-1]
