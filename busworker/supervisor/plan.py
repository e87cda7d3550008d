"""What the supervisor should do: desired and actual state and the clock, turned into actions. Pure.

Each rule names an action and the time from which it is due; no rule looks at the clock. So the same rules say
what to do now and when to look again. `supervisor.main` carries actions out and records them in the state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import msgspec

from busworker.ipc.frames import Cause
from busworker.supervisor.state import Consumer, Pool, Service, Stop, Worker

START_LIMIT = 60.0
"""Seconds from a worker's fork until it must have run its start hooks."""
DUMP_SECONDS = 0.25
"""Seconds that a worker has to write its stacks and die, before SIGKILL. It takes 1 ms if it gets a core at once; on a
machine where many wait for one, 50 ms were too few."""
AT_ONCE = float("-inf")
NEVER = float("inf")


class StartConsumer(msgspec.Struct, frozen=True):
    """Fork the pool's consumer."""

    pool: str


class StartWorker(msgspec.Struct, frozen=True):
    """Fork a worker for a slot, which is free."""

    pool: str
    slot: int


class RetireWorker(msgspec.Struct, frozen=True):
    """Tell the consumer to hand nothing more to a worker and to let it finish."""

    pool: str
    slot: int


class Kill(msgspec.Struct, frozen=True):
    """kill -9 a worker, or the consumer where `slot` is None. `number` is the message at whose limit it
    happens.
    """

    pool: str
    slot: int | None
    pid: int
    cause: Cause
    number: int = 0
    details: str = ""


class Dump(msgspec.Struct, frozen=True):
    """Have a worker write its stacks and die; the kill follows if it doesn't."""

    pool: str
    slot: int
    kill: Kill


class SendDrain(msgspec.Struct, frozen=True):
    """Tell the pool's consumer to drain."""

    pool: str


class TellPause(msgspec.Struct, frozen=True):
    """Tell the pool's consumer whether it is to take messages, as the pool says."""

    pool: str


class Resume(msgspec.Struct, frozen=True):
    """The time of the pool's pause is over."""

    pool: str


class BeginRoll(msgspec.Struct, frozen=True):
    """Note that all workers of the pool are to be replaced one by one."""

    pool: str


class EndRoll(msgspec.Struct, frozen=True):
    """Note that they have been."""

    pool: str


class EndSurge(msgspec.Struct, frozen=True):
    """The pool needs no worker any more beyond those desired."""

    pool: str


class ReadBoard(msgspec.Struct, frozen=True):
    """Write down what the dead pool's scoreboard says is owed, and empty it. No process of it is left."""

    pool: str


class Exit(msgspec.Struct, frozen=True):
    """No process is left: end with this code."""

    code: int


Action: TypeAlias = (
    StartConsumer | StartWorker | RetireWorker | Dump | Kill | SendDrain | ReadBoard | Exit
    | TellPause | Resume | BeginRoll | EndRoll | EndSurge
)  # fmt: skip


class Due(NamedTuple):
    """An action, and the monotonic time from which it is due."""

    at: float
    action: Action


class Plan(NamedTuple):
    """What is to be done now, and the time at which the next action is due if nothing happens before."""

    actions: list[Action]
    next_due: float


def plan(service: Service, now: float) -> Plan:
    """The actions that are due; carry them out, record them, and ask again until there are none."""
    dues = list(_service(service))
    return Plan(
        [due.action for due in dues if due.at <= now],
        min((due.at for due in dues if due.at > now), default=NEVER),
    )


def _service(service: Service) -> Iterator[Due]:
    for pool in service.pools.values():
        if service.stop is not None:
            yield from _stop(pool, service.stop)
        elif pool.consumer is None:
            yield from _rebuild(pool)
        else:
            yield from _keep(pool)
        if service.stop is None:
            yield from _pause(pool)
        yield from _limits(pool, service.grace)
    if service.stop is None:
        yield from _roll(service)
    elif all(pool.empty for pool in service.pools.values()):
        yield Due(AT_ONCE, Exit(service.exit_code))


def _keep(pool: Pool) -> Iterator[Due]:
    """The consumer lives: have a worker in each slot that should have one, and none in others."""
    for slot in pool.slots:
        if slot not in pool.workers:
            yield Due(pool.due.get(slot, AT_ONCE), StartWorker(pool.name, slot))
    for worker in pool.workers.values():
        if worker.slot not in pool.slots and not worker.retiring:
            yield Due(AT_ONCE, RetireWorker(pool.name, worker.slot))


def _roll(service: Service) -> Iterator[Due]:
    """One pool after the other, and in it one worker: an old one goes only while all others, and one more, are up.

    The one more takes the slot after the last, and goes at the end. After a failure it stays until the desired ones
    are up, since it may be the only one that is.
    """
    for pool in service.pools.values():
        if pool.surge and pool.rolling is None and len(pool.up) == pool.desired:
            yield Due(AT_ONCE, EndSurge(pool.name))
    for pool in (service.pools[name] for name in service.rolls[:1]):
        if pool.rolling is None:
            yield Due(AT_ONCE, BeginRoll(pool.name))
        elif pool.steady:
            yield Due(AT_ONCE, RetireWorker(pool.name, pool.old[0].slot) if pool.old else EndRoll(pool.name))


def _pause(pool: Pool) -> Iterator[Due]:
    if pool.paused_until is not None:
        yield Due(pool.paused_until, Resume(pool.name))
    if pool.consumer is not None and pool.consumer.paused != pool.paused:
        yield Due(AT_ONCE, TellPause(pool.name))


def _rebuild(pool: Pool) -> Iterator[Due]:
    """The consumer is gone: only when no worker is left and the scoreboard was read may a new one fetch."""
    yield from _bury(pool)
    if pool.empty:
        yield Due(pool.consumer_backoff.until, StartConsumer(pool.name))


def _bury(pool: Pool) -> Iterator[Due]:
    """The consumer is gone: its workers' outcomes have no reader any more."""
    for worker in _alive(pool):
        yield Due(AT_ONCE, _kill(pool, worker, "died", "its consumer died"))
    if pool.unread and not pool.workers:
        yield Due(pool.read_at, ReadBoard(pool.name))


def _stop(pool: Pool, stop: Stop) -> Iterator[Due]:
    """Let the consumer drain until the grace is over; after its orderly end workers end by themselves."""
    if pool.consumer is not None:
        yield from _drain(pool, pool.consumer, stop)
    elif pool.unread:
        yield from _bury(pool)
    for worker in _alive(pool):
        yield Due(stop.workers_at, _kill(pool, worker, "stopped", "the service was stopped"))


def _drain(pool: Pool, consumer: Consumer, stop: Stop) -> Iterator[Due]:
    if not consumer.draining:
        yield Due(AT_ONCE, SendDrain(pool.name))
    if not consumer.killed:
        yield Due(stop.consumers_at, Kill(pool.name, None, consumer.pid, "stopped"))


def _limits(pool: Pool, grace: float) -> Iterator[Due]:
    for worker in _alive(pool):
        if worker.deadline:
            kill = _kill(pool, worker, "time_limit", number=worker.number)
            yield _after_dump(worker, worker.deadline + worker.moved, kill)
        if worker.number and pool.memory_limit is not None and worker.rss > pool.memory_limit:
            yield _after_dump(worker, AT_ONCE, _kill(pool, worker, "memory_limit", number=worker.number))
        if not worker.started:
            text = f"it was not ready {START_LIMIT:g} s after its start"
            yield _after_dump(worker, worker.started_at + START_LIMIT, _kill(pool, worker, "died", text))
        if worker.finishing_at is not None:
            text = f"it had not ended {grace:g} s after it was told to"
            yield Due(worker.finishing_at + grace, _kill(pool, worker, "stopped", text))


def _after_dump(worker: Worker, at: float, kill: Kill) -> Due:
    """First the worker writes its stacks, for the dead letter or the log."""
    if worker.dumped_at is None:
        return Due(at, Dump(kill.pool, worker.slot, kill))
    return Due(max(at, worker.dumped_at + DUMP_SECONDS), kill)


def _alive(pool: Pool) -> list[Worker]:
    return [worker for worker in pool.workers.values() if worker.killed is None]


def _kill(pool: Pool, worker: Worker, cause: Cause, details: str = "", number: int = 0) -> Kill:
    return Kill(pool.name, worker.slot, worker.pid, cause, number, details)
