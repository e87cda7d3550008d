"""What commands make of the services that run here."""

from pathlib import Path

import pytest

from busworker import Bus, Topic
from busworker.cli.report import Channel, Status
from busworker.cli.serving import Here
from busworker.cli.subscriptions import State, require_unserved, state_of
from busworker.declaration import ServiceSpec
from busworker.errors import AlreadyRunning
from busworker.ipc.control import Instance
from busworker.subscriptions import Load

NAME = "user.registered/email.welcome"
NOBODY = Here([], [])


def running(channel: str, *subscriptions: str) -> Here:
    """A service `email` that runs one channel."""
    counts = (None,) * 6
    told = Channel(channel, "running", 1, *counts, list(subscriptions), [])
    return Here([Status("email", "default", "memory://a", "running", 42, None, [told])], [])


def application(*topics: str, service: str = "email") -> ServiceSpec:
    bus = Bus(service)
    channel = bus.channel("welcome")
    for topic in topics:
        channel.subscribe(Topic(topic, int))(print)
    return bus.spec


@pytest.mark.parametrize(
    ("here", "spec", "expected"),
    [
        (NOBODY, None, "stopped"),
        (NOBODY, application("user.registered"), "stopped"),
        (NOBODY, application("user.removed"), "orphaned"),
        (NOBODY, application("user.removed", service="points"), "stopped"),
        (running("welcome", "user.removed/email.welcome"), None, "orphaned"),
        (running("campaign", "user.removed/email.campaign"), None, "stopped"),  # maybe by `start --channel`
    ],
)
def test_only_what_is_known_to_be_without_a_handler_is_orphaned(
    here: Here, spec: ServiceSpec | None, expected: State
) -> None:
    assert state_of(NAME, here, spec, is_served=False) == expected
    assert state_of(NAME, here, spec, is_served=True) == "served"


@pytest.mark.parametrize(
    ("here", "consumers", "said"),
    [
        (running("welcome", NAME), 0, r"service email \(instance default, pid 42\): stop it first"),
        (NOBODY, 2, "2 consume from its queue"),
        (Here([], [Instance("email", "default", "", 42, Path(), silent=True)]), 0, "doesn't answer"),
    ],
)
def test_what_somebody_serves_or_may_serve_is_not_removed(here: Here, consumers: int, said: str) -> None:
    load = Load(0, 0, 0, 0, consumers)
    with pytest.raises(AlreadyRunning, match=said):
        require_unserved({NAME: load}, here)
    require_unserved({"user.registered/points.award": Load(0, 0, 0, 0, 0)}, here)
