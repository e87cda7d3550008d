"""Channels that are paused, and resumed: nothing is taken meanwhile, and nothing is charged for it."""

import os
import signal
import time

import pytest

from tests.support import Service, Stage, wait_until
from tests.support.transports import on

APP = """
from busworker import Bus, RetryPolicy, Topic
from recording import record, wait_for
bus = Bus("shop")
@bus.channel("pool").subscribe(Topic("work", int), retry=RetryPolicy(2, delays=(0,)))
def work(event, message):
    record("begin", event, message.attempt)
    wait_for("gate")
    record("end", event, message.attempt)
"""


def paused(stage: Stage, service: Service, ready: int) -> bool:
    """Whether the channel is paused, with so many messages in its queue, and none held."""
    assert service.exit_code is None, service.stderr
    pool = stage.channels("shop")["pool"]
    return (pool["state"], pool["ready"], pool["in_flight"]) == ("paused", ready, 0)


@on("filesystem", "proxied")
def test_a_paused_channel_takes_nothing_until_it_is_resumed(stage: Stage, request: pytest.FixtureRequest) -> None:
    stage.home.write("shop.py", APP)
    run = stage.command.run
    service = stage.start("shop")
    stage.publish("work", *range(3))
    stage.wait_recorded(1)
    assert run("pause", "pool").stdout == "paused pool\n"
    assert run("pause", "pool", "--for", "1h").stdout == "paused pool for 3600 s\n"
    if stage.amqp:  # what executes goes back into its queue, and may not run again when it comes back in the end
        request.getfixturevalue("proxy").cut()
        service.wait_log("the broker works again")
    stage.touch("gate")
    stage.wait_recorded(2)
    left = 3 if stage.amqp else 2
    wait_until(lambda: paused(stage, service, left), 20, lambda: f"messages given back; {stage.status('shop')}")
    assert [(line.what, line.attempt) for line in stage.record()] == [("begin", 1), ("end", 1)]
    assert run("health").stdout == "ready: shop (instance default) is paused\n"
    assert run("resume", "pool").stdout == "resumed pool\n"
    stage.wait_recorded(6)
    wait_until(lambda: stage.empty("shop"), 20, lambda: f"the end of all; {stage.status('shop')}")
    assert len(stage.record()) == 6, "each once"

    run("pause", "pool")
    (consumer,) = service.tree("consumer")
    os.kill(consumer.pid, signal.SIGKILL)  # the next one is born paused, and connects
    stage.publish("work", 3)
    wait_until(lambda: paused(stage, service, 1), 20, lambda: f"the next consumer; {stage.status('shop')}")
    assert service.tree("consumer")[0].pid != consumer.pid
    began = time.monotonic()
    run("pause", "pool", "--for", "500ms")
    stage.wait_recorded(8)
    assert time.monotonic() - began >= 0.5
    service.wait_log("channel pool: its pause is over")
    assert {line.attempt for line in stage.record()} == {1}, "nothing is charged"
    assert run("pause", "nope").returncode == 66
    assert service.terminate() == 0
