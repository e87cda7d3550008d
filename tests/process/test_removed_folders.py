"""Folders that somebody removes under a running service."""

import os
import shutil
import signal

import pytest

from tests.support import Home, Stage

APP = """
from busworker import Bus, RetryPolicy, Topic
from recording import record, wait_for
bus = Bus("shop")
@bus.channel("pool").subscribe(Topic("work", str), retry=RetryPolicy(3, delays=(0,)))
def handle(event, message):
    record("begin", event, message.attempt)
    if event == "long" and message.attempt == 1:
        wait_for("gate")
    record("end", event, message.attempt)
"""


@pytest.fixture
def env(home: Home) -> dict[str, str]:
    """A bus outside of the state folder."""
    home.write("shop.py", APP)
    return {"BUSWORKER_BROKER": f"filesystem://{home.path}/bus"}


@pytest.mark.parametrize("gone", ["run", "run/busworker", "the socket"])
def test_a_control_socket_that_is_removed_is_made_anew(stage: Stage, env: dict[str, str], gone: str) -> None:
    service = stage.start("shop", env=env)
    if gone == "the socket":
        (path,) = stage.home.runtime.glob("busworker/*.sock")
        path.unlink()
    else:
        shutil.rmtree(stage.home.path / gone)
    service.wait_log("the control socket was removed; it is there again")
    assert stage.status("shop")["pid"] == service.pid
    assert stage.command.run("stop").stdout == "stopped shop (instance default)\n"
    assert service.wait() == 0
    assert list(stage.home.runtime.glob("busworker/*")) == []


def test_a_removed_state_folder_lets_no_second_service_start(stage: Stage, env: dict[str, str]) -> None:
    service = stage.start("shop", env=env)
    shutil.rmtree(stage.home.state)
    again = stage.command.run("start", "shop", env=env)
    assert again.returncode == 73
    assert f"on this broker (process {service.pid})" in again.stderr
    assert stage.status("shop")["pid"] == service.pid
    assert service.terminate() == 0


def test_a_service_goes_on_without_its_state_folder(stage: Stage, env: dict[str, str]) -> None:
    service = stage.start("shop", env=env)
    assert stage.command.run("publish", "work", '"long"', env=env).returncode == 0
    stage.wait_recorded(1)
    shutil.rmtree(stage.home.state)
    (consumer,) = service.tree("consumer")
    os.kill(consumer.pid, signal.SIGKILL)
    service.wait_log("1 messages were executing or not settled")
    stage.wait_recorded(3)
    stage.wait_empty("shop")
    assert [(line.what, line.attempt) for line in stage.record()] == [("begin", 1), ("begin", 2), ("end", 2)]
    assert service.exit_code is None
    assert service.terminate() == 0
