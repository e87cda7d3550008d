"""`busworker tail`: events as they are published, stolen from nobody."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from busworker.broker import topology
from busworker.broker.session import open_session
from tests.support import Command, Home, Service, wait_until
from tests.support.command import executable
from tests.support.proxy import Proxy
from tests.support.transports import EVERYWHERE, on


@pytest.fixture
def url(home: Home) -> str:
    """The home's bus, which is there, with a subscription that nobody serves."""
    url = home.broker or f"filesystem://{home.state}/busworker/bus"
    session = open_session(url)
    session.declare()
    session.declare_work("user.registered", "email", "welcome")
    session.close()
    return url


def tail(command: Command, *args: str) -> Service:
    service = command.start("tail", *args)
    service.wait_log("listening to")
    return service


def publish(command: Command, topic: str, body: str, *args: str) -> None:
    done = command.run("publish", topic, body, *args)
    assert done.returncode == 0, done.stderr


@EVERYWHERE
def test_events_are_shown_a_line_each_and_taken_from_nobody(command: Command, url: str) -> None:
    text, documents = tail(command, "user.*", "--limit", "2"), tail(command, "#", "--json")
    publish(command, "order.placed", "[1]", "--id", "m1", "--header", "by=hand", "--correlation-id", "c")
    publish(command, "user.registered", '"\x9b31m"', "--id", "m2")
    publish(command, "user.removed", json.dumps("é" * 400, ensure_ascii=False), "--id", "m3")
    assert text.wait() == 0
    second, third = [line.split("  ") for line in text.stdout.splitlines()]
    assert second[1:] == ["user.registered", "m2", '"\\x9b31m"']
    assert (third[1:3], third[3][:3], third[3][-1]) == (["user.removed", "m3"], '"éé', "…")
    assert len("  ".join(third)) == 200

    wait_until(lambda: documents.stdout.count("\n") == 3, 20, lambda: documents.stdout)
    documents.signal(signal.SIGINT)
    assert documents.wait() == 130
    first = json.loads(documents.stdout.splitlines()[0])
    assert first.pop("published_at") is not None
    assert first == {
        "id": "m1",
        "topic": "order.placed",
        "service": "busworker",
        "correlation_id": "c",
        "headers": {"by": "hand"},
        "body": [1],
        "body_base64": None,
    }
    session = open_session(url)
    held = session.counts(topology.work_queue("user.registered", "email", "welcome"))
    unrouted = [letter.properties["message_id"] for letter in session.browse(topology.UNROUTED, newest_first=False)]
    assert held is not None
    assert held.ready == 1
    # RabbitMQ takes a tail for a subscriber, and says so.
    assert unrouted == ([] if url.startswith("amqp") else ["m1", "m3"])
    assert ("isn't kept as unrouted" in text.stderr) == url.startswith("amqp")
    assert not [name for name in session.queues() or [] if name.startswith(topology.TAIL)]
    session.close()


@on("proxied")
def test_a_tail_goes_on_when_its_broker_is_back(command: Command, proxy: Proxy, amqp_url: str) -> None:
    service = tail(command, "#", "--limit", "2")
    publish(command, "a", "1", "--id", "before")
    wait_until(lambda: "before" in service.stdout, 20, "the first event")
    proxy.cut()
    service.wait_log("trying again")
    service.wait_log("again", 20)
    wait_until(lambda: service.stderr.count("listening to '#' again") == 1, 20, lambda: service.stderr)
    publish(command, "a", "1", "--id", "after")
    assert service.wait() == 0
    assert [line.split()[2] for line in service.stdout.splitlines()] == ["before", "after"]


def test_it_ends_when_nobody_reads_it_any_more(home: Home, url: str) -> None:
    errors = home.path / "errors"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [executable(), "tail", "#"], env=home.env, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        )
    wait_until(lambda: "listening" in Path(errors).read_text(), 20, "the tail")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(20) == 141


def test_without_a_bus_there_is_nothing_to_listen_to(command: Command) -> None:
    done = command.run("tail", "#")
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.count("\n") == 1
