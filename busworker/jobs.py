"""What the supervisor gives a child at its fork: plain data that all kinds of processes may import.

Nothing here is sent anywhere: a job lives in the supervisor's memory and the forked child uses its copy.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from busworker.bus import Bus
from busworker.declaration import ChannelSpec, ServiceSpec
from busworker.ipc.scoreboard import Scoreboard
from busworker.ipc.tally import Tally
from busworker.retention import Retention


@dataclass(frozen=True, slots=True)
class ConsumerJob:
    """A consumer's work: one channel of a service.

    Attributes:
        service: the service's name.
        channel: the channel; `processes` is the pool's size at the fork.
        broker: the broker's URL, password included.
        link: its end of the link to the supervisor.
        board: the pool's scoreboard, locked.
        tally: where the pool counts.
        retention: how long dead letters and unrouted messages are kept.
        paused: whether the channel is paused, so that nothing is taken before `Resume` comes.
    """

    service: str
    channel: ChannelSpec
    broker: str
    link: socket.socket
    board: Scoreboard
    tally: Tally
    retention: Retention
    paused: bool = False


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """A worker's work: to run the handlers of one channel in one slot.

    Attributes:
        bus: the application, imported before the fork; None: the worker imports `app` itself
            (`--no-preload`).
        app: where the application is, as `start` was told.
        channel: the channel's name.
        slot: counted from 0; people see it from 1.
        incarnation: which process of that slot it is, from 1.
        link: its end of the link to its consumer.
        supervisor: its end of the link to the supervisor.
        stacks: the file for its Python stacks at its end (`ipc.stacks`).
        log_stacks: the file of all processes for those that the log wants.
        board: the pool's scoreboard.
        tally: where the pool counts.
    """

    bus: Bus | None
    app: str
    channel: str
    slot: int
    incarnation: int
    link: socket.socket
    supervisor: socket.socket
    stacks: int
    log_stacks: int
    board: Scoreboard
    tally: Tally


@dataclass(frozen=True, slots=True)
class HttpJob:
    """What metrics and probes are made from.

    Attributes:
        service: what is declared, reduced to the channels that run.
        instance: the instance's name.
        listener: the listening socket.
        control: the path of the supervisor's control socket.
        tallies: where each pool counts, by channel.
        bus: the folder of a bus on this machine's disk; None: it is elsewhere.
        spool: the folder in which publishers of this bus keep what the broker can't take; None: there is none.
    """

    service: ServiceSpec
    instance: str
    listener: socket.socket
    control: Path
    tallies: dict[str, Tally]
    bus: Path | None = None
    spool: Path | None = None
