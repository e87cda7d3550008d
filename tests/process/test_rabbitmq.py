"""Services on RabbitMQ: how they connect, and what they do about a broker that they can't use."""

import json
import time
from collections.abc import Iterator
from typing import Any

import kombu
import psutil
import pytest

from tests.support import Service, Stage, wait_until
from tests.support.proxy import Proxy
from tests.support.rabbitmq_keeper import SECRET, RabbitMQ

APP = """
from busworker import Bus, RetryPolicy, Topic
from recording import record
bus = Bus("shop")
@bus.channel("pool", processes=2).subscribe(Topic("work", str), retry=RetryPolicy(max_attempts=2, delays=(1,)))
def work(event, message):
    record("done", event, message.attempt)
    if event == "fails" and message.attempt == 1:
        raise ValueError(event)
@bus.channel("other").subscribe(Topic("else", str))
def other(event): record("else", event)
"""
SLOW = 0.8
"""Seconds without a new connection: those that try at full speed never wait so long."""

BUSY = 25.0
"""Per cent of a core. A consumer that spins takes what it gets; a try to connect takes 1 or 2."""


class Others:
    """Another program on the same virtual host."""

    def __init__(self, url: str) -> None:
        self._connection = kombu.Connection(url)
        self._channel: Any = self._connection.channel()

    def replace_exchange(self, name: str, kind: str) -> None:
        """Has an exchange be of that kind, without bindings."""
        self._channel.exchange_delete(name)
        self._channel.exchange_declare(name, kind, durable=True, auto_delete=False)

    def delete_exchange(self, name: str) -> None:
        self._channel.exchange_delete(name)

    def close(self) -> None:
        self._connection.release()


@pytest.fixture
def others(amqp_url: str) -> Iterator[Others]:
    others = Others(amqp_url)
    yield others
    others.close()


@pytest.fixture
def proxy(amqp_url: str) -> Iterator[Proxy]:
    """Between the services of a test and the node."""
    with Proxy(amqp_url) as proxy:
        yield proxy


@pytest.fixture
def env(proxy: Proxy) -> dict[str, str]:
    """The variables by which services and commands take the way through the proxy."""
    return {"BUSWORKER_BROKER": proxy.url}


def publish(stage: Stage, topic: str, event: str, env: dict[str, str]) -> None:
    done = stage.command.run("publish", topic, json.dumps(event), env=env)
    assert done.returncode == 0, done.stderr


def pool(stage: Stage) -> dict[str, Any]:
    return stage.channels("shop")["pool"]


def troubled(service: Service, stage: Stage, proxy: Proxy, why: str) -> None:
    """Waits until the channel's trouble is known, and its consumer tries less and less often."""
    wait_until(lambda: why in (pool(stage)["trouble"] or ""), 20, lambda: f"the trouble\n{service.stderr}")
    wait_until(lambda: time.monotonic() - proxy.accepted_at > SLOW, 20, "a pause between two tries")
    assert pool(stage)["state"] == "failing"
    assert service.stderr.count("shop.pool can't go on: ") == 1


def running(stage: Stage) -> bool:
    return stage.status("shop").get("state") == "running"


def test_a_service_runs_on_tls_with_a_client_certificate(stage: Stage, amqps_url: str) -> None:
    env = {"BUSWORKER_BROKER": amqps_url}
    stage.home.write("shop.py", APP)
    service = stage.start("shop", env=env)
    publish(stage, "work", "fails", env)
    stage.wait_recorded(2)
    assert [(line.event, line.attempt) for line in stage.record("done")] == [("fails", 1), ("fails", 2)]
    assert service.terminate() == 0


def test_odd_names_work_and_their_password_is_shown_nowhere(stage: Stage, rabbitmq: RabbitMQ) -> None:
    url = rabbitmq.new_odd_vhost()
    stage.home.write("shop.py", APP)
    service = stage.start("shop", "--broker", url, "--log-level", "debug")
    done = stage.command.run("publish", "work", '"a"', "--broker", url, env={"BUSWORKER_LOG_LEVEL": "debug"})
    stage.wait_recorded(1)
    tree = psutil.Process(service.pid).children(recursive=True)
    titles = [" ".join(process.cmdline()) for process in (psutil.Process(service.pid), *tree)]
    told = stage.command.run("status").stdout + stage.command.run("check", "shop", "--broker", url).stdout
    refused = stage.command.run("publish", "work", '"a"', "--broker", url.replace(SECRET, f"WRONG{SECRET}"))
    assert service.terminate() == 0
    assert len(titles) > 4
    assert (done.returncode, refused.returncode) == (0, 78)
    for text in (*titles, told, done.stderr, refused.stderr, service.stderr, service.stdout):
        assert SECRET not in text
    assert ":***@" in told


def test_a_start_on_what_exists_otherwise_ends_with_78_and_says_what(
    stage: Stage, others: Others, amqp_url: str
) -> None:
    others.replace_exchange("busworker", "direct")
    stage.home.write("shop.py", APP)
    service = stage.command.start("start", "shop", "--broker", amqp_url)
    assert service.wait(20) == 78
    lines = [line for line in service.stderr.splitlines() if "exists with" in line]
    assert "can't go on: exchange 'busworker' exists with type 'direct', not 'topic': delete it" in lines[0]
    assert {line.partition(" exists ")[2] for line in lines} == {lines[0].partition(" exists ")[2]}
    assert "trying again" not in service.stderr


def test_a_mismatch_found_at_a_reconnect_is_told_and_tried_slowly(
    stage: Stage, others: Others, proxy: Proxy, env: dict[str, str]
) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop", env=env)
    others.replace_exchange("busworker.unrouted", "direct")
    proxy.cut()
    why = "exchange 'busworker.unrouted' exists with type 'direct', not 'fanout'"
    troubled(service, stage, proxy, why)
    assert f"pool: {why}" in stage.command.run("status").stdout
    others.delete_exchange("busworker.unrouted")
    wait_until(lambda: running(stage), 20, lambda: f"the state running\n{service.stderr}")
    assert pool(stage)["trouble"] is None
    publish(stage, "work", "a", env)
    stage.wait_recorded(1)
    assert service.terminate() == 0


def test_a_retry_queue_that_differs_stops_its_channel_alone_and_no_message_runs_again(
    stage: Stage, others: Others, proxy: Proxy, env: dict[str, str]
) -> None:
    others.replace_exchange("busworker.retry.1", "direct")
    stage.home.write("shop.py", APP)
    service = stage.start("shop", env=env)
    publish(stage, "work", "fails", env)
    troubled(service, stage, proxy, "exchange 'busworker.retry.1' exists with type 'direct', not 'fanout'")
    publish(stage, "else", "a", env)
    wait_until(lambda: stage.record("else"), 20, "the other channel's message")
    publish(stage, "work", "waits", env)  # nobody reads it now: a consumer that looks for it must not spin
    (consumer,) = service.tree("consumer", "shop.pool")
    assert psutil.Process(consumer.pid).cpu_percent(interval=SLOW) < BUSY
    others.delete_exchange("busworker.retry.1")
    wait_until(lambda: len(stage.record("done")) > 1, 20, lambda: f"the retry\n{service.stderr}")
    wait_until(lambda: len(stage.record("done")) > 2, 20, lambda: f"what waited\n{service.stderr}")
    assert sorted((line.event, line.attempt) for line in stage.record("done")) == [
        ("fails", 1),
        ("fails", 2),
        ("waits", 1),
    ]
    wait_until(lambda: running(stage), 20, lambda: f"the state running\n{service.stderr}")
    assert service.terminate() == 0


def test_a_refusal_is_not_hidden_by_a_broker_that_was_out_of_reach_before(stage: Stage, amqp_url: str) -> None:
    with Proxy(amqp_url) as proxy:
        proxy.refuse()
        stage.home.write("shop.py", APP)
        service = stage.command.start("start", "shop", "--broker", proxy.url.replace("guest:guest", "guest:wrong"))
        # Both channels: one that hadn't tried before would be refused at its first try.
        wait_until(
            lambda: service.stderr.count("Connection refused; trying again") == 2,
            20,
            lambda: f"two consumers without a broker\n{service.stderr}",
        )
        proxy.take()
        assert service.wait(20) == 78
    assert "can't go on: broker amqp://guest:***@" in service.stderr
