"""Joins supervisor, consumer and worker, and runs a service until it stops. Its caller is the supervisor.

The entry points are texts, imported in the child after its fork: no process loads what belongs to another.
"""

from __future__ import annotations

import logging
import os

import msgspec
import setproctitle

from busworker import logs, places
from busworker.brokers import parse
from busworker.declaration import ServiceSpec
from busworker.ipc.instance import Identity, held
from busworker.run_options import StartOptions
from busworker.supervisor.boards import open_board
from busworker.supervisor.child import freeze
from busworker.supervisor.leftovers import warn_of_leftovers
from busworker.supervisor.main import Supervisor
from busworker.supervisor.orders import Orders
from busworker.supervisor.probe import probe
from busworker.urls import hide_password

log = logging.getLogger("busworker.supervisor")

CONSUMER_MAIN = "busworker.consumer.main:main"
WORKER_MAIN = "busworker.worker.main:main"
PROBE = "busworker.broker.probing:probe"
EMBEDDED = ("filesystem:", "memory:")


def supervise(options: StartOptions) -> int:
    """Runs the service until it has stopped; the exit code of `busworker start`.

    Raises:
        AlreadyRunning: the same service, broker and instance runs already; nothing was touched.
        BrokerUnavailable, TopologyMismatch: the embedded store can't be opened. A broker elsewhere is not
            tried here: its consumers go on trying, and report what trying doesn't help.
        ConfigurationError: the broker's URL is wrong, a folder or a scoreboard can't be used, or processes of an
            earlier run don't go.

    Guarantees:
        Call it in the main thread of a process that may fork. No child outlives it, whatever ends it.
    """
    parse(options.broker)  # before anything is made or forked for a broker that nobody knows
    service = _chosen(options)
    logs.setup(options.log_level, options.log_format, f"supervisor {service.name}")
    key = places.instance_key(service.name, options.broker, options.instance)
    who = Identity(service.name, options.instance, hide_password(options.broker), os.getpid())
    with held(places.lock_path(key), who):
        setproctitle.setproctitle(f"busworker: supervisor {service.name}")
        if options.preload:
            warn_of_leftovers()
        freeze()
        if options.broker.startswith(EMBEDDED):
            probe(PROBE, options.broker)
        return Supervisor(_orders(options, service, key)).run()


def _chosen(options: StartOptions) -> ServiceSpec:
    """What is declared, reduced to the channels that run, each with its number of workers."""
    spec, workers = options.bus.spec, options.workers
    channels = (
        msgspec.structs.replace(channel, processes=workers[channel.name])
        for channel in spec.channels
        if channel.name in workers
    )
    return ServiceSpec(spec.name, tuple(channels))


def _orders(options: StartOptions, service: ServiceSpec, key: str) -> Orders:
    boards = {
        channel.name: open_board(places.board_path(key, channel.name), channel.processes)
        for channel in service.channels
    }
    return Orders(
        service=service,
        instance=options.instance,
        broker=options.broker,
        bus=options.bus if options.preload else None,
        app=options.app,
        grace=options.grace,
        retention=options.retention,
        boards=boards,
        socket=places.socket_path(key),
        consumer_main=CONSUMER_MAIN,
        worker_main=WORKER_MAIN,
    )
