"""Rolling restarts: workers are replaced one by one, and the service goes on."""

from pathlib import Path

from tests.support import Service, Stage, wait_until

APP = """
import os
from busworker import Bus, Topic
from recording import record, wait_for
bus = Bus("shop")

@bus.on_worker_start
def begin():
    if os.path.exists("broken"):
        raise RuntimeError("this can't work")

@bus.channel("pool", processes=2).subscribe(Topic("work", int))
def work(event, message):
    record("begin", event, message.attempt)
    wait_for("gate")
    record("end", event, message.attempt)
"""


def pids(service: Service) -> set[int]:
    """The pids of its workers."""
    return {worker.pid for worker in service.tree("worker")}


def test_workers_are_replaced_one_by_one_until_a_new_one_fails(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    run, consumer, before = stage.command.run, service.tree("consumer"), pids(service)
    stage.publish("work", 0, 1)
    stage.wait_recorded(2)
    assert run("restart", "pool", "--no-wait").stdout == "restarting pool\n"
    service.wait_log("worker shop.pool/1 retires")
    stage.publish("work", 2)
    stage.wait_recorded(3)  # while the old ones execute, the new one begins
    assert len(pids(service)) == 3
    assert run("health").returncode == 0
    stage.touch("gate")
    service.wait_log("all its workers have been replaced")
    wait_until(lambda: len(pids(service)) == 2, 20, "the end of the one more")
    assert pids(service).isdisjoint(before)
    assert service.tree("consumer") == consumer
    assert sorted((line.what, line.event, line.attempt) for line in stage.record()) == [
        (what, str(event), 1) for what in ("begin", "end") for event in range(3)
    ]

    after = pids(service)
    Path(stage.home.path / "broken").touch()
    done = run("restart")
    assert (done.returncode, done.stdout) == (75, "")
    assert "the restart of pool was given up: the new worker shop.pool/3 failed (exit code" in done.stderr
    wait_until(lambda: pids(service) == after, 20, "the old workers alone")
    assert run("restart", "nope").returncode == 66
    assert service.terminate() == 0
