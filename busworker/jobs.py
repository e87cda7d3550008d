"""What the supervisor gives a child at its fork: plain data that all three process kinds may import.

Nothing here is sent anywhere: a job lives in the supervisor's memory and the forked child uses its copy.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from busworker.bus import Bus
from busworker.declaration import ChannelSpec
from busworker.ipc.scoreboard import Scoreboard
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
        retention: how long dead letters and unrouted messages are kept.
        paused: whether the channel is paused, so that nothing is taken before `Resume` comes.
    """

    service: str
    channel: ChannelSpec
    broker: str
    link: socket.socket
    board: Scoreboard
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
