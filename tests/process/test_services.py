"""What services are to each other and to those who run them: who gets what, what handlers publish, hooks, stops."""

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.support import Home, Stage, wait_until
from tests.support.transports import EVERYWHERE, on

Say = Callable[[int], None]

HEAD = """
import os
from busworker import Bus, RetryPolicy, Topic
from recording import record, wait_for

placed = Topic("order.placed", int)
"""
NOTING = """
bus = Bus("{service}")
@bus.channel("{channel}").subscribe(placed)
def note(event, message):
    record("{service}", event, message.attempt)
"""
SHARING = """
import time
bus = Bus("shop")
@bus.channel("pool").subscribe(placed)
def note(event, message):
    record(os.environ["INSTANCE"], event, message.attempt)
    time.sleep(0.01)
"""
GATED = """
bus = Bus("shop")
@bus.channel("pool").subscribe(placed)
def note(event, message):
    record("begin", event, message.attempt)
    wait_for("gate")
    record("end", event, message.attempt)
"""
OUTGOING = """
bus = Bus("shop")
mailed = Topic("mail.wanted", str)

@bus.channel("orders").subscribe(placed, retry=RetryPolicy(3, delays=(0,)))
def order(event, message):
    record("order", event, message.attempt)
    bus.publish(mailed, f"{event}-{message.attempt}")
    if event == 1 and message.attempt < 3:
        raise ValueError("after the publish")
    if event == 2:
        os._exit(1)

@bus.channel("mails").subscribe(mailed)
def mail(event, message):
    record("mail", event, message.attempt)
"""
HOOKED = """
bus = Bus("shop")

@bus.on_worker_start
def begin():
    record("start")

@bus.on_worker_stop
async def finish():
    record("stop")

@bus.around_attempt
def around(message):
    record("before", message.body.decode(), message.attempt)
    try:
        yield
    finally:
        record("after", message.body.decode(), message.attempt)

@bus.channel("pool").subscribe(placed, retry=RetryPolicy(2, delays=(0,)))
def note(event, message):
    record("note", event, message.attempt)
    if message.attempt == 1:
        raise ValueError
"""
PUBLISHER = """
import sys
from busworker import Bus, Topic
bus = Bus("till")
for line in sys.stdin:
    bus.publish(Topic("order.placed", int), int(line)).wait(10)
    print("stored", flush=True)
"""


@pytest.fixture
def say(home: Home) -> Iterator[Say]:
    """Publishes through one process that runs for the whole test."""
    process = subprocess.Popen(
        [sys.executable, home.write("till.py", PUBLISHER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=home.env,
        cwd=home.path,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def say(event: int) -> None:
        print(event, file=stdin, flush=True)
        assert stdout.readline() == "stored\n"

    with process:
        yield say
        stdin.close()
        assert process.wait(20) == 0


def test_a_service_started_later_gets_what_is_published_from_then_on(stage: Stage, say: Say) -> None:
    for name in ("early", "late"):
        stage.home.write(f"{name}.py", HEAD + NOTING.format(service=name, channel=name))
    stage.start("early")
    say(1)
    stage.wait_recorded(1)
    stage.start("late")
    say(2)
    stage.wait_recorded(3)
    stage.wait_empty("early")
    stage.wait_empty("late")
    assert events(stage) == [("early", "1", 1), ("early", "2", 1), ("late", "2", 1)]


@on("filesystem", "amqp")
def test_two_services_with_channels_of_one_name_each_get_each_message(stage: Stage) -> None:
    for name in ("audit", "shop"):
        stage.home.write(f"{name}.py", HEAD + NOTING.format(service=name, channel="pool"))
        stage.start(name)
    stage.publish("order.placed", *range(50))
    stage.wait_recorded(100)
    stage.wait_empty("audit")
    stage.wait_empty("shop")
    assert events(stage) == sorted((name, str(number), 1) for name in ("audit", "shop") for number in range(50))


@on("filesystem", "amqp")
def test_instances_of_one_service_share_its_messages(stage: Stage) -> None:
    stage.home.write("shop.py", HEAD + SHARING)
    for instance in ("blue", "green"):
        stage.start("shop", instance=instance, env={"INSTANCE": instance})
    stage.publish("order.placed", *range(200))
    stage.wait_recorded(200)
    wait_until(lambda: processed(stage, "blue") + processed(stage, "green") == 200, 20, "all settled")
    handled = stage.record()
    assert sorted((int(line.event), line.attempt) for line in handled) == [(number, 1) for number in range(200)]
    assert {line.what for line in handled} == {"blue", "green"}


def test_a_second_start_of_a_running_service_is_refused(stage: Stage) -> None:
    stage.home.write("shop.py", HEAD + NOTING.format(service="shop", channel="pool"))
    first = stage.start("shop")
    second = stage.command.run("start", "shop")
    assert second.returncode == 73
    assert second.stderr.splitlines()[-1].startswith("busworker: ")
    stage.publish("order.placed", 1)
    stage.wait_recorded(1)
    assert first.terminate() == 0


@EVERYWHERE
def test_what_a_handler_publishes_goes_out_once_with_the_attempt_that_succeeds(stage: Stage) -> None:
    stage.home.write("shop.py", HEAD + OUTGOING)
    service = stage.start("shop")
    stage.publish("order.placed", 0, 1, 2)
    service.wait_log(": dead")
    channels = stage.wait_empty("shop")
    assert counts(stage, "order") == {("0", 1): 1} | {(event, n): 1 for event in "12" for n in (1, 2, 3)}
    assert counts(stage, "mail") == {("0-1", 1): 1, ("1-3", 1): 1}
    assert {name: channel["dead"] for name, channel in channels.items()} == {"orders": 1, "mails": 0}
    assert service.terminate() == 0


def test_hooks_run_around_workers_and_attempts(stage: Stage) -> None:
    stage.home.write("shop.py", HEAD + HOOKED)
    service = stage.start("shop")
    stage.publish("order.placed", 7)
    stage.wait_recorded(7)
    assert service.terminate() == 0
    attempts = [(what, "7", attempt) for attempt in (1, 2) for what in ("before", "note", "after")]
    told = [(line.what, line.event, line.attempt) for line in stage.record()]
    assert told == [("start", "-", 0), *attempts, ("stop", "-", 0)]
    assert len({line.pid for line in stage.record()}) == 1


@EVERYWHERE
def test_a_drain_finishes_what_executes_and_gives_the_rest_back_uncharged(stage: Stage) -> None:
    stage.home.write("shop.py", HEAD + GATED)
    service = stage.start("shop")
    stage.publish("order.placed", *range(10))
    stage.wait_recorded(1)
    service.signal(signal.SIGTERM)
    service.wait_log("draining")
    assert service.exit_code is None
    stage.touch("gate")
    assert service.wait() == 0
    assert [(line.what, line.attempt) for line in stage.record()] == [("begin", 1), ("end", 1)]
    again = stage.start("shop")
    stage.wait_recorded(20)
    stage.wait_empty("shop")
    assert events(stage) == [(what, str(number), 1) for what in ("begin", "end") for number in range(10)]
    assert again.terminate() == 0


def test_a_consumer_without_room_sleeps_however_much_is_published(stage: Stage) -> None:
    stage.home.write("shop.py", HEAD + GATED)
    service = stage.start("shop")
    stage.publish("order.placed", *range(3))
    stage.wait_recorded(1)
    (consumer,) = service.tree("consumer")
    stage.publish("order.placed", 3)
    began, before = time.monotonic(), psutil.Process(consumer.pid).cpu_times()
    wait_until(lambda: time.monotonic() - began > 0.5, 5, "half a second")
    after = psutil.Process(consumer.pid).cpu_times()
    assert after.user + after.system - before.user - before.system < 0.1, "a loop that never waits"
    stage.touch("gate")
    stage.wait_recorded(8)
    assert service.terminate() == 0


@on("filesystem", "amqp")
@pytest.mark.parametrize(("number", "grace"), [(signal.SIGTERM, "0.2"), (signal.SIGQUIT, "25")])
def test_what_a_stop_cuts_short_runs_again_as_the_same_attempt(stage: Stage, number: int, grace: str) -> None:
    stage.home.write("shop.py", HEAD + GATED)
    service = stage.start("shop", "--grace", grace)
    stage.publish("order.placed", 1, 2)
    stage.wait_recorded(1)
    service.signal(number)
    assert service.wait() == 75
    stage.touch("gate")
    again = stage.start("shop")
    stage.wait_recorded(5)
    stage.wait_empty("shop")
    cut = stage.record()[0]
    assert counts(stage, "begin") == {("1", 1): 1, ("2", 1): 1} | {(cut.event, 1): 2}
    assert counts(stage, "end") == {("1", 1): 1, ("2", 1): 1}
    assert stage.dead() == []
    assert again.terminate() == 0


@on("filesystem", "amqp")
def test_scaling_changes_how_many_execute_and_cuts_nothing_short(stage: Stage) -> None:
    stage.home.write("shop.py", HEAD + GATED)
    service = stage.start("shop")
    stage.publish("order.placed", *range(20))
    stage.wait_recorded(1)
    assert stage.command.run("scale", "pool=3").stdout == "pool=3\n"
    stage.wait_recorded(3)
    shown = [(one["slot"], one["state"]) for one in stage.channels("shop")["pool"]["workers"]]
    assert shown == [(1, "executing"), (2, "executing"), (3, "executing")]
    assert stage.command.run("scale", "pool=1").stdout == "pool=1\n"
    service.wait_log("worker shop.pool/3 retires")
    assert len(stage.record()) == 3
    stage.touch("gate")
    wait_until(lambda: len(service.tree("worker")) == 1, 20, "one worker")
    stage.wait_empty("shop")
    assert events(stage) == sorted((what, str(number), 1) for what in ("begin", "end") for number in range(20))
    assert stage.command.run("stop").stdout == "stopped shop (instance default)\n"
    assert service.wait() == 0


def events(stage: Stage) -> list[tuple[str, str, int]]:
    return sorted((line.what, line.event, line.attempt) for line in stage.record())


def counts(stage: Stage, what: str) -> Counter[tuple[str, int]]:
    return Counter((line.event, line.attempt) for line in stage.record(what))


def processed(stage: Stage, instance: str) -> int:
    return stage.channels("shop", instance)["pool"]["processed"]


def test_a_bus_that_is_removed_under_a_service_is_made_anew(stage: Stage) -> None:
    stage.home.write(
        "shop.py",
        """
from busworker import Bus, Topic
from recording import record
bus = Bus("shop")
@bus.channel("pool").subscribe(Topic("work", str))
def handle(event): record("handled", event)
""",
    )
    broker = stage.home.path / "bus"
    env = {"BUSWORKER_BROKER": f"filesystem://{broker}"}
    service = stage.start("shop", env=env)
    shutil.rmtree(broker)
    service.wait_log("was removed or replaced")
    service.wait_log("the broker works again")
    assert stage.command.run("publish", "work", '"after"', env=env).returncode == 0
    stage.wait_recorded(1)
    assert [line.event for line in stage.record("handled")] == ["after"]
    assert service.terminate() == 0
