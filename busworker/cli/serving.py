"""What the running services of this user tell, as far as they are on the bus that a command works on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from busworker.cli.ending import complain
from busworker.cli.report import Status
from busworker.errors import ControlError
from busworker.ipc import control
from busworker.ipc.control import Instance, NotAnswering, NotRunning
from busworker.ipc.instance import Identity
from busworker.ipc.scoreboard import ID_BYTES
from busworker.moments import rfc3339
from busworker.urls import bus_identity
from busworker.whereabouts import Holder

ANSWER_WITHIN = 5.0
"""Seconds that a service has to tell its status."""


@dataclass(frozen=True, slots=True)
class Here:
    """The services that run here: what they tell, and those that run and don't answer."""

    told: list[Status]
    silent: list[Instance]


def services_here(broker: str, names: Collection[str] | None = None) -> Here:
    """The running services of this user on a broker.

    Args:
        broker: its URL.
        names: of the services that are meant; None: all.
    """
    bus = bus_identity(broker)

    def meant(who: Identity | Instance) -> bool:
        return bus_identity(who.broker) == bus and (names is None or who.service in names)

    here = Here([], [])
    for one in filter(meant, control.running(meant)):
        try:
            status = None if one.silent else _status(one)
        except NotRunning:
            continue  # it has ended meanwhile
        except NotAnswering:
            status = None
        if status is None:
            here.silent.append(one)
        else:
            here.told.append(status)
    return here


def tell_silent(here: Here) -> None:
    """Says on stderr of which services it isn't known what they do."""
    for one in here.silent:
        complain(f"service {one.service} (pid {one.pid}) runs here and doesn't answer: what it does isn't known")


def all_served(here: Here) -> set[str]:
    """The subscriptions that they have handlers for."""
    return {name for one in here.told for channel in one.channels for name in channel.subscriptions}


def served(here: Here, name: str) -> list[Status]:
    """Those of them that have a handler for a subscription."""
    return [one for one in here.told if any(name in channel.subscriptions for channel in one.channels)]


def executing(here: Here, message_id: str) -> list[tuple[Holder, list[str]]]:
    """The workers that execute a message now, each with the subscriptions of its channel."""
    # As a scoreboard shows it, which has no room for a longer one.
    shown = message_id.encode("utf-8", "replace")[: ID_BYTES - 1].split(b"\0", 1)[0].decode("utf-8", "replace")
    return [
        (Holder(one.service, one.instance, channel.name, it.slot, it.pid, rfc3339(it.since)), channel.subscriptions)
        for one in here.told
        for channel in one.channels
        for it in channel.workers
        if it.message is not None and it.message == shown
    ]


def _status(one: Instance) -> Status:
    try:
        return msgspec.convert(control.ask(one.path, "status", {}, ANSWER_WITHIN), Status)
    except msgspec.ValidationError as error:
        raise ControlError(
            f"the status of {one.service} makes no sense ({error}): use the busworker it runs"
        ) from error
