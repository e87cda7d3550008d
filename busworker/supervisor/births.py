"""What each kind of process is born with: title, role, job and the descriptors they keep."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import NamedTuple

from busworker.declaration import ChannelSpec
from busworker.jobs import ConsumerJob, HttpJob, WorkerJob
from busworker.supervisor.child import Birth
from busworker.supervisor.orders import Orders
from busworker.urls import store_folder


class Place(NamedTuple):
    """Where a worker works: a slot, from 0, of a channel, as its n-th process, from 1."""

    channel: str
    slot: int
    incarnation: int


class Ends(NamedTuple):
    """What a worker keeps open: its ends of the links to consumer and supervisor, its stacks' file, its output."""

    link: socket.socket
    supervisor: socket.socket
    stacks: int
    output: int


def consumer_birth(orders: Orders, spec: ChannelSpec, link: socket.socket, *, paused: bool) -> Birth:
    """The birth of the consumer of a channel, `paused` or not; `link` is its end of the one to the supervisor."""
    job = ConsumerJob(
        service=orders.service.name,
        channel=spec,
        broker=orders.broker,
        link=link,
        board=orders.boards[spec.name].scoreboard,
        tally=orders.tallies[spec.name],
        retention=orders.retention,
        paused=paused,
    )
    role = f"consumer {orders.service.name}.{spec.name}"
    return Birth(f"busworker: {role}", role, orders.consumer_main, job, (link.fileno(),), stacks=orders.stacks)


def worker_birth(orders: Orders, place: Place, ends: Ends) -> Birth:
    """The birth of a worker."""
    job = WorkerJob(
        bus=orders.bus,
        app=orders.app,
        channel=place.channel,
        slot=place.slot,
        incarnation=place.incarnation,
        link=ends.link,
        supervisor=ends.supervisor,
        stacks=ends.stacks,
        log_stacks=orders.stacks,
        board=orders.boards[place.channel].scoreboard,
        tally=orders.tallies[place.channel],
    )
    role = f"worker {orders.service.name}.{place.channel}/{place.slot + 1}"
    keep = (ends.link.fileno(), ends.supervisor.fileno(), ends.stacks)
    title = f"busworker: {role} idle"
    return Birth(title, role, orders.worker_main, job, keep, True, orders.stacks, orders.mark, ends.output)


def http_birth(orders: Orders, entry: str, listener: socket.socket) -> Birth:
    """The birth of the process that answers HTTP."""
    role = f"http {orders.service.name}"
    job = HttpJob(
        service=orders.service,
        instance=orders.instance,
        listener=listener,
        control=orders.socket,
        tallies=orders.tallies,
        bus=store_folder(orders.broker),
        spool=None if orders.spool is None else Path(orders.spool),
    )
    return Birth(f"busworker: {role}", role, entry, job, (listener.fileno(),), stacks=orders.stacks)
