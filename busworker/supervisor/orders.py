"""What the supervisor is told to run; made by `busworker.run` once, never changed."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from busworker.addresses import Address
from busworker.bus import Bus
from busworker.declaration import ServiceSpec
from busworker.ipc.scoreboard import Scoreboard
from busworker.ipc.stacks import new_file
from busworker.ipc.tally import Tally
from busworker.launch import Launch
from busworker.retention import Retention
from busworker.supervisor.manager import Manager
from busworker.supervisor.remains import new_mark


@dataclass(frozen=True, slots=True)
class Board:
    """A pool's scoreboard.

    Attributes:
        scoreboard: opened.
        lock: the descriptor that holds the pool's lock, and nothing else.
        identity: (st_dev, st_ino) of the file: a child keeps every descriptor of it.
    """

    scoreboard: Scoreboard
    lock: int
    identity: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Http:
    """Metrics and probes over HTTP.

    Attributes:
        address: where.
        main: the process's entry point.
        listener: the listening socket; None: the address can't be had now, as may happen after SIGHUP.
    """

    address: Address
    main: str
    listener: socket.socket | None


@dataclass(frozen=True, slots=True)
class Orders:
    """A service to run.

    Attributes:
        service: what is declared, reduced to the channels that run here, each with its number of workers.
        instance: the instance's name.
        broker: the broker's URL, password included.
        bus: the application, for the workers; None: each imports `app` itself.
        app: where the application is.
        grace: seconds that a drain may take.
        retention: how long dead letters and unrouted messages are kept.
        boards: a scoreboard for each channel.
        tallies: where the pool of each channel counts.
        socket: where the control socket is made.
        consumer_main: a consumer's entry point, "module:function".
        worker_main: a worker's entry point.
        key: stands for the running service.
        launch: how this process was started, so that it can start itself again; None: unknown.
        spool: the folder in which publishers of this bus keep what the broker can't take; None: there is none.
        http: metrics and probes; None: they aren't served.
        manager: the service manager that is told how the service is; None: there is none.
        sockets: the descriptors that the last program of this process has left, of the control socket and of those who
            have connected to it; (): there was none, make a control socket.
        mark: of what the workers start.
        stacks: the file in which a process writes its stacks on SIGUSR1.
    """

    service: ServiceSpec
    instance: str
    broker: str
    bus: Bus | None
    app: str
    grace: float
    retention: Retention
    boards: dict[str, Board]
    tallies: dict[str, Tally]
    socket: Path
    consumer_main: str
    worker_main: str
    key: str = "unnamed"
    launch: Launch | None = None
    spool: str | None = None
    http: Http | None = None
    manager: Manager | None = None
    sockets: tuple[int, ...] = ()
    stacks: int = field(default_factory=new_file)
    mark: str = field(default_factory=lambda: new_mark("unnamed"))
    pid: int = field(default_factory=os.getpid)
