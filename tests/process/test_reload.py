"""SIGHUP: the new code is tried, what runs is drained, and the same process starts again. Nothing is lost."""

import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from busworker.ipc import control
from tests.support import Service, Stage, wait_until
from tests.support.command import executable
from tests.support.transports import on

APP = """
import os, time
from busworker import Bus, Topic
from recording import record, wait_for

bus = Bus("shop")

@bus.channel("pool", processes=2).subscribe(Topic("work", str))
def handle(event, message):
    record("{version}", event, message.attempt)
    if event == "gated":
        wait_for("gate")
        record("through", event, message.attempt)
"""
SLOW_IMPORT = (
    "import time, os\nopen('importing', 'w').close()\nwhile not os.path.exists('go'):\n    time.sleep(0.005)\n"
)
READY = "consumer shop.pool ready"
DRAINING = "draining, for up to"


def write(stage: Stage, version: str, head: str = "") -> None:
    # Python takes its cached code for a file of the same size that was written in the same second.
    path = stage.home.path / "shop.py"
    size = path.stat().st_size if path.exists() else 0
    text = head + APP.replace("{version}", version)
    stage.home.write("shop.py", text + "#" * (len(text) == size))


def wait_again(service: Service, times: int = 1) -> None:
    """Waits until the service has started again so often."""
    wait_until(
        lambda: service.stderr.count(READY) == times + 1 and service.stderr.count("/2 ready") == times + 1,
        30.0,
        lambda: f"{times} new starts in\n{service.stderr}",
    )


def hung_up(stage: Stage, *args: str) -> Service:
    """A service that drains because of a HUP, while a handler executes."""
    write(stage, "old")
    service = stage.start("shop", *args)
    stage.publish("work", "gated")
    stage.wait_recorded(1)
    service.signal(signal.SIGHUP)
    service.wait_log(DRAINING)
    service.wait_log("/2 ended")  # the consumer has heard of it, and the worker without work has gone
    return service


@pytest.mark.parametrize("args", [(), ("--no-preload",)], ids=["preload", "no preload"])
def test_hup_loads_the_new_code_into_the_same_process(stage: Stage, args: tuple[str, ...]) -> None:
    service = hung_up(stage, *args)
    write(stage, "new")
    stage.publish("work", *(str(number) for number in range(100)))
    assert service.stderr.count(READY) == 1
    stage.touch("gate")
    wait_again(service)
    stage.wait_recorded(102)
    pool = stage.wait_empty("shop")["pool"]
    assert stage.status("shop")["pid"] == service.pid
    assert (pool["dead"], pool["failed"]) == (0, 0)
    handled = [(line.what, line.event, line.attempt) for line in stage.record()]
    assert sorted(handled) == sorted(
        [("old", "gated", 1), ("through", "gated", 1), *(("new", str(number), 1) for number in range(100))]
    )
    assert service.terminate() == 0


@on("filesystem", "amqp")
def test_nothing_is_lost_or_charged_when_it_is_reloaded_again_and_again(stage: Stage) -> None:
    write(stage, "one")
    service = stage.start("shop")
    for times in range(1, 4):
        publishing = subprocess.Popen(
            [executable(), "publish", "work", "-"], stdin=subprocess.PIPE, env=stage.home.env, cwd=stage.home.path
        )
        service.signal(signal.SIGHUP)
        publishing.communicate("".join(f'"{times}-{number}"\n' for number in range(200)).encode(), 60)
        wait_again(service, times)
    stage.wait_recorded(600)
    assert stage.wait_empty("shop")["pool"]["dead"] == 0
    expected = [(f"{times}-{number}", 1) for times in range(1, 4) for number in range(200)]
    assert sorted((line.event, line.attempt) for line in stage.record()) == sorted(expected)
    assert service.terminate() == 0


@pytest.mark.parametrize("args", [(), ("--no-preload",)], ids=["preload", "no preload"])
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("1 / 0\n", "raised ZeroDivisionError: division by zero at "),
        ("import os; os._exit(0)\n", "ended"),
        ("import os; os.kill(os.getpid(), 9)\n", "SIGKILL"),
        ("from busworker import Bus\nbus = Bus('shop')\n", "service shop has no channels"),
        (APP.replace('"shop"', '"store"'), "it is another service, broker or instance now"),
    ],
    ids=["raises", "exits", "dies", "empty", "another service"],
)
def test_code_that_would_not_start_is_not_loaded(stage: Stage, code: str, why: str, args: tuple[str, ...]) -> None:
    write(stage, "old")
    service = stage.start("shop", *args)
    stage.home.write("shop.py", code)
    service.signal(signal.SIGHUP)
    assert why in service.wait_log("the new code is not used, the old code runs on: ")
    if not args:
        stage.publish("work", "after")
        stage.wait_recorded(1)
        assert [line.what for line in stage.record()] == ["old"]
    assert service.stderr.count(" ERROR ") == 1
    assert DRAINING not in service.stderr
    assert len(service.tree("worker")) == 2
    write(stage, "mended")
    service.signal(signal.SIGHUP)
    wait_again(service)
    assert service.terminate() == 0


def test_hup_while_it_checks_or_drains_is_ignored(stage: Stage) -> None:
    write(stage, "old")
    service = stage.start("shop")
    write(stage, "new", SLOW_IMPORT)
    service.signal(signal.SIGHUP)
    wait_until((stage.home.path / "importing").exists, 20.0, "the check")
    service.signal(signal.SIGHUP)
    service.wait_log("SIGHUP is ignored: the new code is being checked already")
    stage.publish("work", "gated")
    stage.wait_recorded(1)
    stage.touch("go")
    service.wait_log(DRAINING)
    service.signal(signal.SIGHUP)
    service.wait_log("SIGHUP is ignored: the service drains")
    stage.touch("gate")
    wait_again(service)
    assert service.stderr.count("starting again") == 1
    assert service.terminate() == 0


def test_term_during_the_check_stops_the_service(stage: Stage) -> None:
    write(stage, "old")
    service = stage.start("shop")
    write(stage, "new", SLOW_IMPORT)
    service.signal(signal.SIGHUP)
    wait_until((stage.home.path / "importing").exists, 20.0, "the check")
    assert service.terminate() == 0
    assert "starting again" not in service.stderr


@pytest.mark.parametrize("text", ["SIGHUP: checking", "the new code is good", "drained", "starting again"])
def test_term_at_any_moment_of_a_reload_stops_the_service(stage: Stage, text: str) -> None:
    write(stage, "old")
    service = stage.start("shop")
    service.signal(signal.SIGHUP)
    service.wait_log(text)
    assert service.terminate() == 0
    assert service.stderr.count(READY) == 1


def test_term_during_the_drain_of_a_hup_stops_the_service(stage: Stage) -> None:
    service = hung_up(stage)
    service.signal(signal.SIGTERM)
    stage.touch("gate")
    assert service.wait() == 0
    assert [line.what for line in stage.record()] == ["old", "through"]
    assert "starting again" not in service.stderr


@pytest.mark.parametrize("signals", [[signal.SIGTERM, signal.SIGINT], [signal.SIGQUIT]], ids=["TERM INT", "QUIT"])
def test_an_immediate_stop_during_the_drain_of_a_hup_is_one(stage: Stage, signals: list[int]) -> None:
    service = hung_up(stage)
    for number in signals:
        service.signal(number)
    assert service.wait() == 75
    assert "starting again" not in service.stderr


def test_busworker_stop_during_the_drain_of_a_hup_stops_the_service(stage: Stage) -> None:
    service = hung_up(stage)
    assert stage.command.run("stop", "--service", "shop", "--no-wait").returncode == 0
    stage.touch("gate")
    assert service.wait() == 0
    assert "starting again" not in service.stderr


def test_a_hup_whose_drain_is_cut_short_starts_again_and_charges_nothing(stage: Stage) -> None:
    service = hung_up(stage, "--grace", "0.3")
    wait_again(service)
    stage.touch("gate")
    stage.wait_recorded(3)
    assert [(line.what, line.attempt) for line in stage.record()] == [("old", 1), ("old", 1), ("through", 1)]
    assert service.terminate() == 0


def test_signals_that_come_all_the_time_disturb_no_reload(stage: Stage) -> None:
    write(stage, "old")
    service = stage.start("shop")

    def disturb() -> bool:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU):
            service.signal(number)
        return service.stderr.count("starting again") == 2

    wait_until(disturb, 60.0, lambda: f"two reloads\n{service.stderr}")
    stage.publish("work", "after")
    stage.wait_recorded(1)
    assert service.exit_code is None
    assert service.terminate() == 0


def test_no_other_start_and_no_command_finds_a_gap(stage: Stage) -> None:
    write(stage, "old")
    service = stage.start("shop")
    service.signal(signal.SIGHUP)
    codes, known = set(), set()
    while service.stderr.count(READY) < 2:
        codes.add(stage.command.run("start", "shop").returncode)
        known.add(stage.status("shop").get("pid"))
    assert codes == {73}
    assert known == {service.pid}
    wait_again(service)
    assert service.terminate() == 0


def test_whoever_asks_while_it_starts_again_is_answered(stage: Stage) -> None:
    write(stage, "old")
    service = stage.start("shop")
    (path,) = stage.home.runtime.rglob("*.sock")

    def ask(command: str) -> set[object]:
        pids: set[object] = set()
        while service.stderr.count(READY) < 4:
            answer = control.ask(path, command, {}, 20.0)
            assert isinstance(answer, dict)
            pids.add(answer["pid"])
        return pids

    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(ask, command) for command in ("identify", "status", "identify", "status")]
        for times in range(1, 4):
            service.signal(signal.SIGHUP)
            wait_again(service, times)
    assert {pid for one in asked for pid in one.result()} == {service.pid}
    assert service.terminate() == 0


def test_the_folder_is_that_which_the_shell_named(stage: Stage) -> None:
    home = stage.home.path
    for release in ("one", "two"):
        write(stage, release)
        (home / release).mkdir()
        (home / "shop.py").rename(home / release / "shop.py")
        (home / release / "recording.py").write_bytes((home / "recording.py").read_bytes())
    current = home / "current"
    current.symlink_to("one")
    out = stage.home.logs / "reloaded"
    with out.open("wb") as log:
        process = subprocess.Popen(
            [executable(), "start", "shop"],
            stdout=log,
            stderr=log,
            cwd=current,
            env=stage.home.env | {"PWD": str(current)},
            start_new_session=True,
        )
    service = Service(process, out, out)
    try:
        wait_until(lambda: READY in out.read_text(), 20.0, out.read_text)
        current.unlink()
        current.symlink_to("two")
        service.signal(signal.SIGHUP)
        wait_until(lambda: out.read_text().count(READY) == 2, 20.0, out.read_text)
        stage.publish("work", "after")
        record = home / "two" / "record"
        wait_until(lambda: record.exists() and record.read_text().startswith("two after"), 20.0, "the new code")
        assert service.terminate() == 0
    finally:
        service.kill_tree()


LEAVING = """
import subprocess
open('helper', 'w').write(str(subprocess.Popen(['sleep', '600']).pid))
"""


def test_what_the_old_import_started_ends_with_the_old_code(stage: Stage) -> None:
    write(stage, "old", LEAVING)
    service = stage.start("shop")
    old = int((stage.home.path / "helper").read_text())
    assert Path(f"/proc/{old}").exists()
    write(stage, "new")
    service.signal(signal.SIGHUP)
    wait_again(service)
    checking = int((stage.home.path / "helper").read_text())
    assert not Path(f"/proc/{old}").exists()
    wait_until(lambda: not Path(f"/proc/{checking}").exists(), 5.0, "the end of what the check has started")
    assert service.terminate() == 0


def test_the_check_ends_with_the_supervisor(stage: Stage) -> None:
    write(stage, "old")
    service = stage.start("shop")
    write(stage, "new", SLOW_IMPORT)
    service.signal(signal.SIGHUP)
    wait_until((stage.home.path / "importing").exists, 20.0, "the check")
    service.kill()
    wait_until(lambda: not service.tree(), 1.0, lambda: f"the end of {service.tree()}")
