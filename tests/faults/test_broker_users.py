"""A service whose user RabbitMQ refuses for a while, and one whose handlers leave no time for heartbeats."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.support import Service, Stage, wait_until
from tests.support.orders import SHOP, TOPIC, published
from tests.support.rabbitmq import Node
from tests.support.transports import on

HEARTBEAT = int(os.environ.get("BROKER_HEARTBEAT", "1"))
"""Seconds; the broker closes a connection that is silent for two of them."""
GIL = int(os.environ.get("BROKER_GIL", str(5 * HEARTBEAT)))
"""Seconds for which a handler holds the interpreter's lock; over two heartbeats, or the test shows nothing."""


def pids(service: Service) -> set[int]:
    return {member.pid for member in service.tree()}


def executions(stage: Stage, what: str) -> Counter[tuple[str, int]]:
    return Counter((line.event, line.attempt) for line in stage.record(what))


@contextmanager
def user(victim: Node, vhost: str, name: str) -> Iterator[None]:
    allow(victim, vhost, name)
    try:
        yield
    finally:
        if name in victim.ctl("list_users"):
            victim.ctl("delete_user", name)


def allow(victim: Node, vhost: str, name: str) -> None:
    """Makes that user, with the password "one"."""
    victim.ctl("add_user", name, "one")
    victim.ctl("set_permissions", "-p", vhost, name, ".*", ".*", ".*")


def closed_connections(victim: Node, name: str) -> bool:
    """Closes a user's connections. The command fails when one of them ends by itself just then."""
    try:
        victim.ctl("close_all_user_connections", name, "for a test")
    except AssertionError as error:
        if ":gen_server, :call" not in str(error):  # noproc, or normal
            raise
        return False
    return True


def wait_refused(victim: Node, name: str) -> None:
    """Waits until the broker has refused that user once more."""
    told = f"user '{name}' - invalid credentials"
    refused = victim.log.count(told)
    wait_until(lambda: victim.log.count(told) > refused, 20, lambda: f"{told}\n{victim.log[-3000:]}")


@on("victim")
def test_a_user_who_is_refused_for_a_while_has_its_service_back(stage: Stage, victim: Node, broker: str) -> None:
    vhost = urlsplit(broker).path[1:]
    name = f"user-{vhost}"
    stage.home.write("shop.py", SHOP)
    with user(victim, vhost, name):
        url = broker.replace("guest:guest", f"{name}:one")
        service = stage.command.start("start", "shop", env={"BUSWORKER_BROKER": url})
        service.wait_log("consumer shop.pool ready")
        processes = pids(service)
        victim.ctl("change_password", name, "two")
        wait_until(lambda: closed_connections(victim, name), 20, "the user's connections are closed")
        wait_refused(victim, name)
        victim.ctl("change_password", name, "one")
        published(stage, 20)
        stage.wait_recorded(2 * 20)
        victim.ctl("delete_user", name)  # RabbitMQ closes its connections
        wait_refused(victim, name)
        allow(victim, vhost, name)
        stage.publish(TOPIC, *range(100, 120))
        stage.wait_recorded(2 * 40)
        assert pids(service) == processes
        assert service.terminate() == 0
    assert executions(stage, "end") == {(str(number), 1): 1 for number in (*range(20), *range(100, 120))}


@on("victim")
def test_a_handler_that_holds_the_interpreter_for_many_heartbeats_costs_no_connection(
    stage: Stage, victim: Node, broker: str
) -> None:
    stage.home.write("shop.py", SHOP)
    service = stage.command.start("start", "shop", env={"BUSWORKER_BROKER": f"{broker}?heartbeat={HEARTBEAT}"})
    service.wait_log("consumer shop.gated ready")
    logged = len(victim.log)
    stage.publish("gated", f"gil:{GIL}")
    began = time.monotonic()
    wait_until(lambda: stage.record("done"), GIL + 20, lambda: f"the end of it\n{service.stderr}")
    assert time.monotonic() - began > 2.5 * HEARTBEAT
    stage.publish("gated", "sleep:0")
    wait_until(lambda: len(stage.record("done")) == 2, 20, "the next one")
    assert executions(stage, "gated") == {(f"gil:{GIL}", 1): 1, ("sleep:0", 1): 1}
    assert "missed heartbeats" not in victim.log[logged:]
    assert "trying again" not in service.stderr
    assert service.terminate() == 0
