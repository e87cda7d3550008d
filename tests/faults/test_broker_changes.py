"""What those who run RabbitMQ do to it under a service: queues and users deleted, alarms, time-outs of the broker."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from amqp.basic_message import Message

from tests.support import Service, Stage, wait_until
from tests.support.orders import SHOP, TILLS, TOPIC, Till, published, settled
from tests.support.rabbitmq import Node
from tests.support.transports import on

WORK = f"busworker.{TOPIC}/shop.pool"
GATED = "busworker.gated/shop.gated"
ALARMS = {
    "memory": (("set_vm_memory_high_watermark", "0.000001"), ("set_vm_memory_high_watermark", "0.4")),
    "disk": (("set_disk_free_limit", "100000GB"), ("set_disk_free_limit", "1MB")),
}


def shop(stage: Stage) -> Service:
    stage.home.write("shop.py", SHOP)
    return stage.start("shop")


def pids(service: Service) -> set[int]:
    return {member.pid for member in service.tree()}


def executions(stage: Stage, what: str) -> Counter[tuple[str, int]]:
    return Counter((line.event, line.attempt) for line in stage.record(what))


# What is deleted


@on("amqp")
def test_a_queue_that_is_deleted_under_a_service_is_made_anew(stage: Stage) -> None:
    service = shop(stage)
    processes = pids(service)
    published(stage, 20)
    stage.wait_recorded(2 * 20)
    stage.wait_empty("shop")
    with stage.kombu() as channel:
        channel.queue_delete(WORK)
    service.wait_log("trying again")
    wait_until(lambda: stage.status("shop").get("state") == "running", 20, "it runs again")
    stage.publish(TOPIC, *range(100, 120))
    stage.wait_recorded(2 * 40)
    stage.wait_empty("shop")
    assert executions(stage, "end") == {(str(number), 1): 1 for number in (*range(20), *range(100, 120))}
    assert pids(service) == processes
    assert service.terminate() == 0


@on("amqp")
@pytest.mark.parametrize(("deed", "exchange"), [("retry", "busworker.back"), ("later", "busworker.retry.1")])
def test_an_exchange_that_is_deleted_under_a_service_is_made_anew(stage: Stage, deed: str, exchange: str) -> None:
    """The broker closes the channel that publishes into it (AMQP 0-9-1, 404)."""
    service = shop(stage)
    stage.touch("gate")
    stage.publish("gated", f"{deed}:1")
    stage.wait_recorded(3)
    with stage.kombu() as channel:
        channel.exchange_delete(exchange)
        # Past the exchanges, and by nobody who declares them.
        message = Message(f'"{deed}:2"', application_headers={"x-busworker-topic": "gated"})
        channel.basic_publish(message, "", GATED)
    wait_until(lambda: len(stage.record("done")) == 2, 30, lambda: f"the second attempt\n{service.stderr}")
    stage.wait_empty("shop")
    assert executions(stage, "gated") == {(f"{deed}:{number}", attempt): 1 for number in (1, 2) for attempt in (1, 2)}
    assert stage.dead() == []
    assert service.terminate() == 0


# Alarms


@contextmanager
def alarmed(victim: Node, alarm: str) -> Iterator[None]:
    """All connections that publish are blocked meanwhile (RabbitMQ, "Memory and Disk Alarms")."""
    set_it, clear = ALARMS[alarm]
    try:
        victim.ctl(*set_it)
        wait_until(lambda: alarm in victim.ctl("eval", "rabbit_alarm:get_alarms()."), 20, f"the {alarm} alarm")
        yield
    finally:
        victim.ctl(*clear)


@on("victim")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("alarm", ALARMS)
def test_an_alarm_holds_publishes_up_and_nothing_is_lost_or_repeated(stage: Stage, victim: Node, alarm: str) -> None:
    service = shop(stage)
    processes = pids(service)
    stage.publish("gated", "gate:1", "retry:1", "publish:1")
    wait_until(lambda: len(stage.record("gated")) == 3, 20, "all three execute")
    confirmed = published(stage, 300)
    with ExitStack() as tills:
        with alarmed(victim, alarm):
            till = tills.enter_context(Till(stage.home, TILLS, 20))
            stage.touch("gate")  # what they publish has to wait; what is only acknowledged needn't
            wait_until(lambda: len(stage.record("end")) == 300, 30, lambda: f"all handled\n{service.stderr}")
            assert (till.confirmed, stage.record("noted")) == (set(), [])
        assert {one.state for one in till.wait_published()} == {"confirmed"}
        account = settled(stage, confirmed | till.confirmed)
    assert account == (set(), set(), set(), 0)
    assert executions(stage, "gated") == {("gate:1", 1): 1, ("retry:1", 1): 1, ("retry:1", 2): 1, ("publish:1", 1): 1}
    assert len(stage.record("noted")) == 1
    assert pids(service) == processes
    assert service.terminate() == 0


# Time


@contextmanager
def consumer_timeout(victim: Node, milliseconds: int) -> Iterator[None]:
    """New channels have that time for an acknowledgement, and are looked at every 0.2 s (rabbit_channel.erl)."""
    change = (
        "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {})."
    )
    victim.ctl("eval", change.format(milliseconds, 200))
    try:
        yield
    finally:
        victim.ctl("eval", change.format(1_800_000, 60_000))


@on("victim")
def test_a_handler_that_takes_longer_than_the_brokers_consumer_timeout_runs_once(stage: Stage, victim: Node) -> None:
    with consumer_timeout(victim, 500):
        logged = len(victim.log)
        service = shop(stage)
        stage.publish("gated", "sleep:3", "sleep:3.0")
        wait_until(lambda: "timed out waiting for delivery" in victim.log[logged:], 30, "the broker's word")
        wait_until(lambda: len(stage.record("done")) >= 2, 30, lambda: f"both\n{service.stderr}")
        stage.wait_empty("shop")
    assert executions(stage, "gated") == {("sleep:3", 1): 1, ("sleep:3.0", 1): 1}
    assert stage.dead() == []
    assert service.terminate() == 0
