"""The commands of the control socket, carried out in the supervisor's loop."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from busworker.ipc.control import Request
from busworker.ipc.frames import CountsTold
from busworker.log_fields import event
from busworker.settings import MOST_PROCESSES
from busworker.supervisor import metrics, status
from busworker.supervisor.crew import Crew
from busworker.supervisor.health import Probe, ailing
from busworker.supervisor.orders import Orders
from busworker.supervisor.server import Client, Server
from busworker.supervisor.state import Pool, Service

log = logging.getLogger("busworker.supervisor")

COUNTS_WITHIN = 0.08
"""Seconds that consumers have to tell their counts: one that is busy leaves nulls, and status stays quick."""
MEASURED_WITHIN = 1.0
"""The same for metrics, for which nobody waits in person."""

Tell: TypeAlias = Callable[[Orders, Service, float, Mapping[str, CountsTold]], status.Document]


@dataclass(slots=True)
class Asked:
    """A `status` or `metrics` that waits for counts; `tell` makes the answer."""

    client: Client
    tell: Tell
    until: float
    missing: set[str]
    told: dict[str, CountsTold] = field(default_factory=dict[str, CountsTold])


class Commands:
    """What a control request does.

    Args:
        orders: what the supervisor runs.
        service: the state; `scale` and `stop` change what is desired in it.
        crews: the pools' processes, by channel.
    """

    def __init__(self, orders: Orders, service: Service, crews: Mapping[str, Crew]) -> None:
        self._orders = orders
        self._service = service
        self._crews = crews
        self._started_at = time.time()
        self._numbers = itertools.count(1)
        self._asked: dict[int, Asked] = {}
        self._server: Server | None = None

    def serve(self, server: Server) -> None:
        """Answers go out through this server."""
        self._server = server

    @property
    def next_due(self) -> float:
        """When the next one is answered whatever is missing; monotonic seconds."""
        return min((asked.until for asked in self._asked.values()), default=float("inf"))

    def handle(self, client: Client, request: Request) -> None:
        """Carries out a request; the answer follows at once, but for `status` and `metrics`."""
        match request.command:
            case "identify":
                self._answer(client, status.identity(self._orders, self._service, self._started_at))
            case "status":
                self._ask(client, status.report, COUNTS_WITHIN)
            case "metrics":
                self._ask(client, metrics.report, MEASURED_WITHIN)
            case "health":
                self._health(client, request.arguments)
            case "scale":
                self._scale(client, request.arguments)
            case "pause":
                self._pause(client, request.arguments)
            case "resume":
                self._resume(client, request.arguments)
            case "restart":
                self._restart(client, request.arguments)
            case "rolling":
                failed = self._service.roll_failed or ("the service stops" if self._service.stop is not None else "")
                self._answer(client, {"left": self._service.rolls, "failed": failed})
            case "paused":
                if pool := self._pool(client, request.arguments):
                    self._answer(client, {"halted": pool.halted or self._service.stop is not None})
            case "stop":
                log.info("stop was asked for", extra=event("stop_asked"))
                self._service.drain(time.monotonic())
                self._answer(client, {"pid": self._orders.pid, "grace": self._orders.grace})
            case _:
                self._refuse(client, f"this service knows no command {request.command[:40]!r}", 2)

    def counts(self, channel: str, told: CountsTold) -> None:
        """A consumer told its counts."""
        asked = self._asked.get(told.request)
        if asked is not None and channel in asked.missing:
            asked.missing.discard(channel)
            asked.told[channel] = told

    def turn(self, now: float) -> None:
        """Answers each for which all counts have come, or whose time is over."""
        for number, asked in list(self._asked.items()):
            if not asked.missing or now >= asked.until:
                del self._asked[number]
                document = asked.tell(self._orders, self._service, self._started_at, asked.told)
                self._answer(asked.client, document)

    def close(self) -> None:
        """Answers everybody who still waits, with what is known."""
        self.turn(float("inf"))

    def _ask(self, client: Client, tell: Tell, within: float) -> None:
        number = next(self._numbers)
        missing = {name for name, crew in self._crews.items() if crew.ask_counts(number)}
        self._asked[number] = Asked(client, tell, time.monotonic() + within, missing)

    def _health(self, client: Client, arguments: Mapping[str, object]) -> None:
        try:
            probe = msgspec.convert(arguments.get("probe"), Probe)
        except msgspec.ValidationError:
            self._refuse(client, f"a service is asked for live, ready or startup, not {arguments.get('probe')!r}", 2)
            return
        who, why = f"{self._orders.service.name} (instance {self._orders.instance})", ailing(self._service, probe)
        if why is None:
            self._answer(client, {"text": f"{who} is {status.service_state(self._service)}"})
        else:
            self._refuse(client, f"{who} {why}", 69)

    def _scale(self, client: Client, arguments: Mapping[str, object]) -> None:
        processes = arguments.get("processes")
        if (pool := self._pool(client, arguments)) is None:
            return
        if not isinstance(processes, int) or not 1 <= processes <= MOST_PROCESSES:
            self._refuse(client, f"a channel has 1 to {MOST_PROCESSES} workers, not {processes!r}", 2)
        else:
            told = event("channel_scaled", channel=pool.name)
            log.info("channel %s: %d workers instead of %d", pool.name, processes, pool.desired, extra=told)
            pool.desired = processes
            self._answer(client, {"channel": pool.name, "processes": processes})

    def _pause(self, client: Client, arguments: Mapping[str, object]) -> None:
        seconds = arguments.get("seconds")
        if (pool := self._pool(client, arguments)) is None:
            return
        if seconds is None:
            pool.pause(float("inf"))
        elif isinstance(seconds, int | float) and seconds >= 0:
            pool.pause(time.monotonic() + seconds)
        else:
            self._refuse(client, f"a pause takes seconds, not {seconds!r}", 2)
            return
        told, most = event("channel_paused", channel=pool.name), "" if seconds is None else f" for {seconds:g} s"
        log.info("channel %s: paused%s", pool.name, most, extra=told)
        self._answer(client, {"channel": pool.name})

    def _resume(self, client: Client, arguments: Mapping[str, object]) -> None:
        if pool := self._pool(client, arguments):
            log.info("channel %s: resumed", pool.name, extra=event("channel_resumed", channel=pool.name))
            pool.resume()
            self._answer(client, {"channel": pool.name})

    def _restart(self, client: Client, arguments: Mapping[str, object]) -> None:
        pool = self._pool(client, arguments) if arguments.get("channel") is not None else None
        if self._service.stop is not None:
            self._refuse(client, "the service stops, and its workers aren't replaced any more", 75)
        elif pool is not None or arguments.get("channel") is None:
            channels = list(self._service.pools) if pool is None else [pool.name]
            log.info("a rolling restart of %s was asked for", ", ".join(channels), extra=event("restart_asked"))
            self._service.restart(channels)
            self._answer(client, {"channels": channels})

    def _pool(self, client: Client, arguments: Mapping[str, object]) -> Pool | None:
        """The channel that is meant; None: there is none, and the client has been told."""
        name = arguments.get("channel")
        pool = self._service.pools.get(name) if isinstance(name, str) else None
        if pool is None:
            self._refuse(client, f"no channel {name!r} runs here; there are: {', '.join(self._service.pools)}", 66)
        return pool

    def _answer(self, client: Client, result: object) -> None:
        if self._server is not None:
            self._server.answer(client, result)

    def _refuse(self, client: Client, error: str, exit_code: int) -> None:
        if self._server is not None:
            self._server.refuse(client, error, exit_code)
