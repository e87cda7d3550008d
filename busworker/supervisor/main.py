"""The supervisor's loop: one thread, one selector, no broker.

Each turn carries out what the plan says is due, sleeps until the next due time, a signal, a frame or a
request, and records what has happened. The kernel ties the parent-death signal to the thread that forked, so
there is only one.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from typing import assert_never

from busworker import fault_log
from busworker.errors import ConfigurationError
from busworker.ipc import control
from busworker.log_fields import event
from busworker.settings import MOST_PROCESSES
from busworker.supervisor import plan as plans
from busworker.supervisor.commands import Commands
from busworker.supervisor.crew import Crew
from busworker.supervisor.dumps import Dumps
from busworker.supervisor.health import is_ready, summary
from busworker.supervisor.manager import Reporting
from busworker.supervisor.memory import LOOK
from busworker.supervisor.notices import Facts
from busworker.supervisor.orders import Orders
from busworker.supervisor.plan import Action, plan
from busworker.supervisor.reload import Reload
from busworker.supervisor.remains import Remains
from busworker.supervisor.server import Server
from busworker.supervisor.signals import Signals, block
from busworker.supervisor.state import Pool, Service
from busworker.supervisor.status import service_state
from busworker.supervisor.telling import StateTelling
from busworker.supervisor.undertaker import Undertaker
from busworker.supervisor.web import Web

log = logging.getLogger("busworker.supervisor")

QUICK_LOOK, SLOW_LOOK = 0.25, 1.0
"""Seconds between two looks at the scoreboards: while something executes under a limit, and otherwise."""
LATE = 1.0
"""Seconds by which a turn may be late before the machine or this process is taken to have been suspended."""


class Supervisor:
    """The process that forks, watches, restarts and kills the others."""

    def __init__(self, orders: Orders) -> None:
        channels = orders.service.channels
        pools = {spec.name: Pool(spec.name, spec.processes, spec.memory_limit) for spec in channels}
        self._service = Service(pools, orders.grace)
        self._selector = selectors.DefaultSelector()
        self._crews: dict[str, Crew] = {}
        self._commands = Commands(orders, self._service, self._crews)
        for spec in channels:
            self._crews[spec.name] = Crew(orders, spec, self._service, self._selector, self._commands.counts)
        self._signals = Signals()
        self._server = _server(orders, self._selector, self._commands)
        self._orders = orders
        self._reload = Reload(orders.launch, orders.key, orders.mark)
        self._reporting = Reporting(orders.manager)
        self._states = StateTelling()
        self._dumps = Dumps(orders.stacks)
        self._remains = Remains(orders.mark)
        self._undertaker = Undertaker(
            orders.service.name, orders.mark, [board.scoreboard.path for board in orders.boards.values()]
        )
        self._web = Web(orders)
        self._child = True
        self._socket = orders.socket
        self._socket_due = 0.0
        self._told_socket = False
        self._commands.serve(self._server)
        self._selector.register(self._signals, selectors.EVENT_READ, self._hear_signals)
        self._look = min(SLOW_LOOK, max(QUICK_LOOK, _shortest_limit(orders) / 2))
        self._expected = time.monotonic()
        self._away = 0.0
        self._terminated = False
        self._told_stop = False
        self._exit_code: int | None = None
        self._sockets: tuple[int, ...] = ()
        self._next_due = self._expected

    def run(self) -> int:
        """Runs the service until it has stopped; its exit code."""
        try:
            while True:
                self._act()
                if self._exit_code is not None:
                    return self._exit_code
                self._wait()
        finally:
            self._close()

    @property
    def sockets(self) -> tuple[int, ...]:
        """After `run`: the descriptors of `Server.hand_over`, if the service is to start again; (): it has ended."""
        return self._sockets

    # A turn

    def _act(self) -> None:
        """Carries out what is due, until nothing is: each action changes what the next plan sees."""
        while True:
            now = self._now(0.0)
            actions, self._next_due = plan(self._service, now)
            if not actions:
                break
            for action in actions:
                self._carry_out(action)
            if self._exit_code is not None:
                break
        self._tell_stop()

    def _carry_out(self, action: Action) -> None:
        match action:
            case plans.StartConsumer(pool):
                self._crews[pool].start_consumer()
            case plans.StartWorker(pool, slot):
                self._crews[pool].start_worker(slot)
            case plans.RetireWorker(pool, slot):
                self._crews[pool].retire(slot)
            case plans.Dump(pool):
                self._crews[pool].dump(action)
            case plans.Kill(pool):
                self._crews[pool].kill(action)
            case plans.SendDrain(pool):
                self._crews[pool].drain()
            case plans.TellPause(pool):
                self._crews[pool].tell_pause()
            case plans.Resume(pool):
                self._service.pools[pool].resume()
                log.info("channel %s: its pause is over", pool, extra=event("channel_resumed", channel=pool))
            case plans.BeginRoll(pool):
                self._service.pools[pool].begin_roll()
                log.info(
                    "channel %s: its workers are replaced one by one", pool, extra=event("restart_begun", channel=pool)
                )
            case plans.EndRoll(pool):
                self._service.end_roll(pool)
                log.info(
                    "channel %s: all its workers have been replaced", pool, extra=event("restart_done", channel=pool)
                )
            case plans.EndSurge(pool):
                self._service.pools[pool].surge = 0
            case plans.ReadBoard(pool):
                self._crews[pool].read_board()
            case plans.Exit(code):
                self._exit_code = code
            case _:
                assert_never(action)

    def _wait(self) -> None:
        self._undertaker.keep()
        self._web.turn(time.monotonic())
        dues = (self._server, self._commands, self._dumps, self._reporting, self._web)
        until = min(self._next_due, self._reload.until, *(due.next_due for due in dues))
        timeout = min(max(until - time.monotonic(), 0.0), self._look_again())
        events = self._selector.select(timeout)
        now = self._now(timeout)
        for key, _ in events:
            key.data()
        for crew in self._crews.values():
            crew.reap()
            crew.flush()
        fault_log.tell()
        self._undertaker.reap()
        if self._reload.turn(now) and self._service.stop is None:
            log.info("the new code is good: the service starts again once it has drained", extra=event("reload_begun"))
            self._service.renew(now)
            for pool in self._service.pools.values():
                if pool.paused:
                    told = event("channel_resumed", channel=pool.name)
                    log.warning("channel %s: the new start ends its pause", pool.name, extra=told)
        self._remains.turn(now, self._pids(), child=self._child)
        self._child = False
        self._dumps.turn(now, self._pids())
        self._observe()
        self._report(now)
        self._commands.turn(now)
        self._server.expire(now)
        self._keep_socket(now)

    def _report(self, now: float) -> None:
        """Tells the service manager and the log how the service is."""
        self._states.tell(service_state(self._service))
        if not self._reporting.wanted:
            return
        renewing = self._service.renewing
        self._reporting.turn(
            Facts(
                ready=is_ready(self._service),
                reloading=renewing or self._reload.pid is not None,
                stopping=self._service.stop is not None and not renewing,
                status=summary(self._service),
            ),
            now,
        )

    def _pids(self) -> set[int]:
        """The children that haven't been reaped."""
        others = {pid for pid in (self._reload.pid, self._undertaker.pid, self._web.pid) if pid is not None}
        return others.union(*(pool.pids for pool in self._service.pools.values()))

    def _keep_socket(self, now: float) -> None:
        """Makes the control socket anew if somebody has removed it, or its folder."""
        if now < self._socket_due:
            return
        self._socket_due = now + SLOW_LOOK
        if os.path.lexists(self._socket):
            return
        try:
            self._server.replace(control.listen(self._socket))
        except ConfigurationError as error:
            if not self._told_socket:
                log.warning("the control socket was removed: %s", error, extra=event("socket_lost"))
            self._told_socket = True
        else:
            told = event("socket_restored")
            log.warning("the control socket was removed; it is there again: %s", self._socket, extra=told)
            self._told_socket = False

    def _look_again(self) -> float:
        if any(crew.memory.busy for crew in self._crews.values()):
            return LOOK
        limited = any(worker.deadline for pool in self._service.pools.values() for worker in pool.workers.values())
        return QUICK_LOOK if limited else self._look

    def _observe(self) -> None:
        for crew in self._crews.values():
            crew.observe()
            crew.pool.note()

    def _now(self, planned: float) -> float:
        """The monotonic time. `planned` is how long ago the last call may be.

        CLOCK_MONOTONIC runs on while this process is stopped, or its virtual machine paused. Nobody could
        work meanwhile, or be told anything, so no deadline counts that time.
        """
        now = time.monotonic()
        away = now - self._expected
        self._expected = now
        if away - planned > LATE:
            told = event("supervisor_late", duration=away)
            log.warning("the supervisor was away for %.1f s: all deadlines move by as much", away, extra=told)
            self._observe()
            self._service.move(away)  # what was planned as well: nobody knows when in it the others were stopped
            self._reload.until += away
            self._away += away
        for crew in self._crews.values():
            crew.board.write_turned(now, self._away)
        return now

    # Signals

    def _hear_signals(self) -> None:
        for number in self._signals.read():
            self._obey(number)

    def _obey(self, number: int) -> None:
        now = time.monotonic()
        match number:
            case signal.SIGTERM | signal.SIGINT if not self._terminated:
                self._terminated = True
                self._reload.cancel()
                self._service.drain(now)
            case signal.SIGTERM | signal.SIGINT | signal.SIGQUIT:
                log.warning("stopping at once", extra=event("service_stopping_at_once"))
                self._service.hurry(now)
            case signal.SIGTTIN:
                self._scale_all(1)
            case signal.SIGTTOU:
                self._scale_all(-1)
            case signal.SIGHUP if self._service.stop is not None:
                log.warning("SIGHUP is ignored: the service drains", extra=event("reload_ignored"))
            case signal.SIGHUP:
                self._reporting.reload(now)
                self._reload.begin(now)
            case signal.SIGUSR1:
                pools = [process for crew in self._crews.values() for process in crew.processes()]
                self._dumps.ask([*pools, *self._web.processes])
            case _:
                self._child = True

    def _scale_all(self, more: int) -> None:
        for pool in self._service.pools.values():
            pool.desired = min(max(1, pool.desired + more), MOST_PROCESSES)
            log.info(
                "channel %s: %d workers", pool.name, pool.desired, extra=event("channel_scaled", channel=pool.name)
            )

    def _tell_stop(self) -> None:
        stop = self._service.stop
        if stop is not None and not self._told_stop:
            self._told_stop = True
            most = max(0.0, stop.workers_at - stop.since)
            log.info("draining, for up to %g s", most, extra=event("service_draining"))

    def _renews(self) -> bool:
        """Whether the service starts again. A stop may have come at the last moment; later ones wait for the start."""
        if not self._service.renewing or self._exit_code is None:
            return False
        block()
        return {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}.isdisjoint(self._signals.read())

    def _close(self) -> None:
        self._reload.cancel()
        self._undertaker.close()
        self._web.close()
        self._commands.close()
        self._report(time.monotonic())
        if self._renews():
            self._reporting.leave()
            self._sockets = self._server.hand_over()
            # What the import has started belongs to the old code.
            self._remains.end_all(None if self._orders.launch is None else self._orders.launch.children)
        else:
            self._remains.end_all()
            self._server.close()
            self._socket.unlink(missing_ok=True)
        self._signals.close()
        self._selector.close()
        if self._exit_code is not None:
            code = "" if self._exit_code == 0 else f", exit code {self._exit_code}"
            log.info("stopped%s", code, extra=event("service_stopped"))


def _server(orders: Orders, selector: selectors.BaseSelector, commands: Commands) -> Server:
    listener, *clients = [socket.socket(fileno=one) for one in orders.sockets] or [control.listen(orders.socket)]
    return Server(listener, selector, commands.handle, clients)


def _shortest_limit(orders: Orders) -> float:
    """The seconds after which a worker may have to be killed at the earliest."""
    limits = [
        one.time_limit + one.kill_after
        for spec in orders.service.channels
        for one in spec.subscriptions
        if one.time_limit is not None
    ]
    return min(limits, default=float("inf"))
