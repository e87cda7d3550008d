"""Joins supervisor, consumer and worker, and runs a service until it stops. Its caller is the supervisor.

The entry points are texts: supervisor, consumer and worker don't import each other. A consumer's code, and with it the
broker's, is imported in the consumer after its fork; the workers' once, before any fork.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from pathlib import Path

import msgspec
import setproctitle

from busworker import fault_log, logs, places, procfs
from busworker.addresses import parse_address
from busworker.brokers import parse
from busworker.declaration import ServiceSpec
from busworker.errors import ConfigurationError
from busworker.ipc import control
from busworker.ipc.instance import Identity, already_running, held, holder
from busworker.ipc.tally import Tally
from busworker.launch import Handover, Launch
from busworker.log_fields import event
from busworker.procfs import Seen
from busworker.run_options import StartOptions
from busworker.supervisor import remains
from busworker.supervisor.boards import open_board
from busworker.supervisor.child import freeze
from busworker.supervisor.leftovers import warn_of_leftovers
from busworker.supervisor.main import Supervisor
from busworker.supervisor.orders import Http, Orders
from busworker.supervisor.probe import probe
from busworker.supervisor.web import listen
from busworker.urls import hide_password

log = logging.getLogger("busworker.supervisor")

CONSUMER_MAIN = "busworker.consumer.main:main"
WORKER_MAIN = "busworker.worker.main:main"
HTTP_MAIN = "busworker.http.main:main"
GONE_WITHIN = 0.5
"""Seconds for the last processes of a killed service to let go of its control socket."""
PATIENCE = 2.0
"""Seconds for ending what a predecessor has left."""
PROBE = "busworker.broker.probing:probe"
EMBEDDED = ("filesystem:", "memory:")


def supervise(options: StartOptions) -> int:
    """Runs the service until it has stopped; the exit code of `busworker start`.

    Raises:
        AlreadyRunning: the same service, broker and instance runs already; nothing was touched.
        BrokerUnavailable, TopologyMismatch: the embedded store can't be opened. A broker elsewhere is not
            tried here: its consumers go on trying, and report what trying doesn't help.
        ConfigurationError: the broker's URL is wrong, a folder, a scoreboard or the address for HTTP can't be used, or
            processes of an earlier run don't go.

    Guarantees:
        Call it in the main thread of a process that may fork. No child outlives it, whatever ends it.
    """
    parse(options.broker)  # before anything is made or forked for a broker that nobody knows
    service = _chosen(options)
    logs.setup(options.log_level, options.log_format, f"supervisor {service.name}")
    key = places.instance_key(service.name, options.broker, options.instance)
    who = Identity(service.name, options.instance, hide_password(options.broker), os.getpid())
    handover = None if options.launch is None else options.launch.handover
    path = places.lock_path(key)
    before = holder(path)
    with held(path, who, None if handover is None else handover.lock) as lock:
        _refuse_second(places.socket_path(key), who)
        if before is not None and handover is None:  # it was killed: an orderly end leaves the file empty
            _end_leftovers(key, service.name)
        setproctitle.setproctitle(f"busworker: supervisor {service.name}")
        if options.preload:
            warn_of_leftovers(() if handover is None else handover.descriptors)
        # Workers are replaced often, and importing their code takes longer than all else. This process runs none of it.
        importlib.import_module(WORKER_MAIN.partition(":")[0])
        freeze()
        if options.broker.startswith(EMBEDDED):
            probe(PROBE, options.broker, options.bus.spec)
        supervisor = Supervisor(_orders(options, service, key))
        code = supervisor.run()
        if supervisor.sockets and options.launch is not None:
            _start_again(options.launch, Handover(lock, supervisor.sockets))
        return code


def check(options: StartOptions) -> str:
    """Does what can fail in `supervise` for reasons of code and settings; nothing is left of it.

    Returns:
        What stands for the service that would run: `places.instance_key`.

    Raises:
        BrokerUnavailable, ConfigurationError, TopologyMismatch: as `supervise`.
    """
    parse(options.broker)
    service = _chosen(options)
    if options.broker.startswith(EMBEDDED):
        probe(PROBE, options.broker)
    return places.instance_key(service.name, options.broker, options.instance)


def _end_leftovers(key: str, service: str) -> None:
    """Ends what a predecessor has left that was killed together with its undertaker."""
    pattern = remains.pattern_of_key(key)

    def is_left(seen: Seen) -> bool:
        return remains.is_orphan(seen.pid, service) or procfs.told(seen.pid, pattern) is not None

    ended = remains.end_leftovers(is_left, PATIENCE)
    if ended:
        told = event("leftovers_ended")
        log.warning("the service was killed before; %d processes that it had left were ended", ended, extra=told)


def _start_again(launch: Launch, handover: Handover) -> None:
    """Returns only if that can't be done."""
    log.info("starting again", extra=event("service_starting_again"))
    fault_log.tell_rest()
    try:
        launch.again(handover)
    except OSError as error:
        log.critical("the service can't be started again: %s", error, extra=event("reload_failed"))


def _refuse_second(path: Path, who: Identity) -> None:
    """The lock proves nothing if somebody removed the state folder meanwhile; but then the first one still listens.

    Not at once: a child of a supervisor that was killed may hold its socket for an instant, until it dies too.

    Raises:
        AlreadyRunning: somebody serves this instance's socket.
    """
    until = time.monotonic() + GONE_WITHIN
    while (pid := control.listener(path)) not in (None, who.pid):
        if time.monotonic() >= until:
            raise already_running(who, pid)
        time.sleep(0.02)


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
    handover = None if options.launch is None else options.launch.handover
    http = None if options.http is None else _http(options.http, again=handover is not None)
    boards = {
        channel.name: open_board(places.board_path(key, channel.name), channel.processes)
        for channel in service.channels
    }
    tallies = {channel.name: Tally(len(channel.subscriptions)) for channel in service.channels}
    return Orders(
        service=service,
        instance=options.instance,
        broker=options.broker,
        bus=options.bus if options.preload else None,
        app=options.app,
        grace=options.grace,
        retention=options.retention,
        boards=boards,
        tallies=tallies,
        socket=places.socket_path(key),
        consumer_main=CONSUMER_MAIN,
        worker_main=WORKER_MAIN,
        key=key,
        launch=options.launch,
        spool=options.spool,
        http=http,
        manager=options.manager,
        sockets=() if handover is None else handover.sockets,
        mark=remains.new_mark(key),
    )


def _http(address: str, *, again: bool) -> Http:
    """Metrics and probes there. Started `again`, a service doesn't end because somebody else has taken the address.

    Raises:
        ConfigurationError: the address can't be had.
    """
    where = parse_address(address, "--http")
    try:
        return Http(where, HTTP_MAIN, listen(where))
    except ConfigurationError:
        if not again:
            raise
        return Http(where, HTTP_MAIN, None)
