"""`busworker subscriptions`, and the warnings of queues that nobody serves any more."""

import json
from typing import Any

import pytest

from busworker.broker import topology
from busworker.broker.session import Session, open_session
from tests.contract.bench import event, fetched
from tests.support import Command, Home, Stage, wait_until
from tests.support.transports import EVERYWHERE

TODAY = """
from busworker import Bus, Reject, RetryPolicy, Topic
bus = Bus("shop")
mail = bus.channel("mail")
@mail.subscribe(Topic("order.placed", str))
def placed(event): pass
"""
BEFORE = (
    TODAY
    + """
@mail.subscribe(Topic("order.gone", str), retry=RetryPolicy(delays=(1,)))
def gone(event):
    if event == "dies":
        raise Reject(event)
    raise ValueError(event)
"""
)
GONE, PLACED = "order.gone/shop.mail", "order.placed/shop.mail"
WORK = topology.work_queue("order.gone", "shop", "mail")


def listed(command: Command, *args: str) -> dict[str, dict[str, Any]]:
    done = command.run("subscriptions", "list", "--json", *args)
    assert done.returncode == 0, done.stderr
    return {one["subscription"]: one for one in json.loads(done.stdout)}


@EVERYWHERE
def test_what_nobody_serves_any_more_is_told_and_can_be_removed(stage: Stage, command: Command) -> None:
    stage.home.write("shop.py", BEFORE)
    service = stage.start("shop")
    stage.publish("order.gone", "dies")
    wait_until(lambda: listed(command, "--app", "shop")[GONE]["dead"] == 1, 20, "a dead letter")
    one = listed(command, GONE)[GONE]
    assert one["services"] == [{"service": "shop", "instance": "default", "pid": service.pid}]
    assert (one["state"], one["exists"], one["ready"], one["consumers"] > 0) == ("served", True, 0, True)
    refused = command.run("subscriptions", "remove", PLACED, GONE, "--yes", "--dead")
    assert (refused.returncode, refused.stdout) == (73, "")
    assert f"served by service shop (instance default, pid {service.pid}): stop it first" in refused.stderr
    service.terminate()

    stage.home.write("shop.py", TODAY)
    stage.publish("order.gone", "1", "2")
    now = listed(command, *([GONE] if stage.amqp else []), "--app", "shop")
    assert (now[GONE]["state"], now[GONE]["ready"], now[GONE]["dead"]) == ("orphaned", 2, 1)
    removed = command.run("subscriptions", "remove", GONE, "--yes")
    assert (removed.returncode, removed.stdout) == (0, f"removed {GONE} (messages lost: 2, dead letters lost: 0)\n")
    left = listed(command, GONE)[GONE]
    assert (left["exists"], left["ready"], left["dead"]) == (False, None, 1)
    only = command.run("subscriptions", "remove", GONE, "--yes")
    assert (only.returncode, only.stdout) == (2, "")
    assert "add --dead" in only.stderr
    assert command.run("subscriptions", "remove", GONE, "--yes", "--dead").returncode == 0
    assert command.run("subscriptions", "list", GONE).returncode == 66


def test_start_and_check_warn_of_a_queue_that_nobody_serves_any_more(stage: Stage, command: Command) -> None:
    stage.home.write("shop.py", TODAY)
    session = open_session(f"filesystem://{stage.home.state}/busworker/bus")
    session.declare()
    session.declare_work("order.gone", "shop", "mail")
    session.declare_work("order.gone", "post", "mail")
    service = stage.start("shop", "--channel", "mail")
    warnings = [line for line in service.stderr.splitlines() if "no handler" in line]
    assert [
        f"WARN  probe: subscription {GONE} has no handler in its service any more" in line for line in warnings
    ] == [True]
    checked = command.run("check", "shop").stdout.splitlines()[-1]
    assert checked.endswith(f"(0 now): busworker subscriptions remove '{GONE}'")
    session.close()
    service.terminate()


@pytest.fixture
def keeper(broker_url: str) -> Any:
    """A session that has the subscriptions made, and keeps a bus in memory alive."""
    session = open_session(broker_url)
    session.declare()
    for topic in ("order.gone", "order.placed"):
        session.declare_work(topic, "shop", "mail")
    session.declare_retry(1)
    yield session
    session.close()


@pytest.mark.parametrize("broker_url", ["filesystem"], indirect=True)
def test_removing_asks_first_and_what_waits_ends_as_unrouted(
    command: Command, home: Home, broker_url: str, keeper: Session
) -> None:
    waits = event()
    waits.exchange, waits.routing_key = "busworker.retry.1", WORK
    keeper.publish([event("order.gone"), waits])
    broker = ("--broker", broker_url)

    unanswered = command.run("subscriptions", "remove", GONE, *broker)
    assert (unanswered.returncode, unanswered.stdout) == (2, "")
    assert f"Remove {GONE} for good? Messages lost: 1. Dead letters kept: 0." in unanswered.stderr
    assert "Waiting for a retry, to end as unrouted: 1." in unanswered.stderr
    no = command.run("subscriptions", "remove", GONE, PLACED, *broker, input="n\n")
    assert (no.returncode, no.stdout) == (0, "")
    assert "Remove 2 subscriptions for good?" in no.stderr

    absent = command.run("subscriptions", "remove", PLACED, "order.lost/shop.mail", "--yes", *broker)
    assert (absent.returncode, absent.stdout) == (66, "")
    consumer = open_session(broker_url)
    consumer.consume(WORK, 1)
    taken = command.run("subscriptions", "remove", PLACED, GONE, "--yes", *broker)
    consumer.close()
    assert (taken.returncode, taken.stdout) == (73, "")
    assert {*listed(command, *broker)} == {GONE, PLACED}

    removed = command.run("subscriptions", "remove", GONE, *broker, input="y\n")
    assert (removed.returncode, removed.stdout.count("removed")) == (0, 1)
    keeper.consume(topology.UNROUTED, 1)  # whoever fetches moves what is due
    assert [one.routing_key for one in fetched(keeper, 1)] == [WORK]


@pytest.mark.parametrize("broker_url", ["filesystem"], indirect=True)
def test_a_table_says_who_serves_what(command: Command, home: Home, broker_url: str, keeper: Session) -> None:
    home.write("shop.py", TODAY)
    keeper.publish([event("order.gone")])
    lines = command.run("subscriptions", "list", "shop", "--app", "shop", "--broker", broker_url).stdout.splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "SUBSCRIPTION READY IN FLIGHT WAITING DEAD SERVED BY",
        f"{GONE} 1 0 0 0 no handler any more",
        f"{PLACED} 0 0 0 0 nobody now",
        "",
        "to remove what has no handler any more:",
        f"busworker subscriptions remove {GONE} --broker {broker_url} --app shop",
    ]


def test_on_rabbitmq_somebody_has_to_say_which(command: Command, amqp_url: str) -> None:
    done = command.run("subscriptions", "list", "shop", "--broker", amqp_url)
    assert (done.returncode, done.stdout) == (2, "")
    assert "this broker lists no queues" in done.stderr
