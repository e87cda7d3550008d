"""What `status` shows of a running service (docs/reference/cli.md, `--json`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from busworker.declaration import ChannelSpec
from busworker.ipc.frames import CountsTold
from busworker.ipc.scoreboard import Scoreboard
from busworker.message import utc
from busworker.moments import rfc3339
from busworker.names import subscription_name
from busworker.supervisor.orders import Orders
from busworker.supervisor.state import Pool, Service, Worker
from busworker.urls import hide_password

State: TypeAlias = Literal["starting", "running", "paused", "failing", "draining"]
Document: TypeAlias = dict[str, object]

UNKNOWN: Document = {
    "ready": None,
    "in_flight": None,
    "waiting": None,
    "dead": None,
    "oldest": None,
    "rate": None,
    "last_error": None,
}


def pool_state(pool: Pool, *, stopping: bool) -> State:
    """The state of a channel: `running` means that every subscription is bound and its workers are up.

    `paused` means that too, and that by somebody's wish no message is taken.
    """
    if stopping:
        return "draining"
    if pool.complete:
        return "paused" if pool.paused else "running"
    troubled = pool.consumer is not None and pool.consumer.trouble
    failing = troubled or pool.consumer_backoff.failures or pool.worker_backoff.failures
    return "failing" if failing else "starting"


def service_state(service: Service) -> State:
    """The state of a service: the worst of its channels."""
    states = {pool_state(pool, stopping=service.stop is not None) for pool in service.pools.values()}
    order: tuple[State, ...] = ("draining", "failing", "starting", "paused", "running")
    return next(state for state in order if state in states or state == "running")


def identity(orders: Orders, service: Service, started_at: float) -> Document:
    """Which service this is; the head of `status` and the answer to `identify`. `started_at` is Unix time."""
    return {
        "service": orders.service.name,
        "instance": orders.instance,
        "broker": hide_password(orders.broker),
        "state": service_state(service),
        "pid": orders.pid,
        "started_at": rfc3339(started_at),
    }


def report(orders: Orders, service: Service, started_at: float, told: Mapping[str, CountsTold]) -> Document:
    """The whole status; channels whose consumer told no counts in time have null there."""
    channels = [_channel(orders, spec, service, told.get(spec.name)) for spec in orders.service.channels]
    return {**identity(orders, service, started_at), "spool": orders.spool, "channels": channels}


def _channel(orders: Orders, spec: ChannelSpec, service: Service, told: CountsTold | None) -> Document:
    pool, board = service.pools[spec.name], orders.boards[spec.name].scoreboard
    processed, failed = board.counted()
    return {
        "name": spec.name,
        "state": pool_state(pool, stopping=service.stop is not None),
        "trouble": None if pool.consumer is None else pool.consumer.trouble or None,
        "paused_until": _paused_until(pool),
        "processes": pool.desired,
        **(UNKNOWN if told is None else _counts(told)),
        "processed": processed,
        "failed": failed,
        "subscriptions": [subscription_name(one.topic, orders.service.name, spec.name) for one in spec.subscriptions],
        "workers": [_worker(pool.workers[slot], board) for slot in sorted(pool.workers)],
    }


def _paused_until(pool: Pool) -> str | None:
    until = pool.paused_until
    return None if until is None or until == float("inf") else rfc3339(_wall(until))


def _counts(told: CountsTold) -> Document:
    return {
        "ready": told.ready,
        "in_flight": told.in_flight,
        "waiting": told.waiting,
        "dead": told.dead,
        "oldest": rfc3339(utc(told.oldest)),
        "rate": None if told.rate is None else round(told.rate, 1),
        "last_error": None if told.last_error is None else msgspec.structs.asdict(told.last_error),
    }


def _worker(worker: Worker, board: Scoreboard) -> Document:
    view = board.view(worker.slot)
    state: str
    since: float | None
    if view.number:
        state, since = "executing", view.since
    elif worker.killed is not None or worker.finishing_at is not None:
        state, since = "stopping", None if worker.finishing_at is None else _wall(worker.finishing_at)
    elif worker.started:
        state, since = "idle", max(_wall(worker.started_at), view.since)
    else:
        state, since = "starting", _wall(worker.started_at)
    return {
        "slot": worker.slot + 1,
        "pid": worker.pid,
        "state": state,
        "message": view.message_id if view.number else None,
        "since": rfc3339(since),
        "rss": _rss(worker.pid),
    }


def _wall(monotonic: float) -> float:
    """The Unix time at a monotonic time."""
    return time.time() - time.monotonic() + monotonic


def _rss(pid: int) -> int | None:
    import psutil  # 30 ms that a start needn't pay

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
