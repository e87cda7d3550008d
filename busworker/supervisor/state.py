"""What the supervisor knows of its service, and how facts change it. Pure: pids and times are arguments.

A pool is one consumer and its workers. Whoever carries out an action of `plan` records it here, and whatever
is observed (a death, a frame, a deadline) goes in here too; `plan` only reads. Times are monotonic seconds.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from busworker.ipc.frames import Cause

FIRST_DELAY, LONGEST_DELAY = 0.1, 30.0
STEADY = 30.0
"""Seconds after which a process that has done no work is no longer taken for one that fails at its start."""
CONSUMER_SETTLES = 2.0
"""Seconds a consumer has, after its workers were killed, to give back what they executed."""
HURRIED_SETTLES = 0.5
"""The same after QUIT or a second TERM."""
READ_AGAIN = 0.5
"""Seconds until a scoreboard is read again if the disk was too full to write down what it says."""
CUT_SHORT = 75

Kind: TypeAlias = Literal["consumer", "worker"]
Fate: TypeAlias = Literal["exit", "signal", "time_limit", "memory_limit", "killed"]
"""Why a process ended before it was to: by itself, at a limit, or because we had to kill it for another reason."""


class Backoff(msgspec.Struct):
    """Growing delays for processes that die before any work. Deaths during a delay share it."""

    failures: int = 0
    until: float = 0.0

    def failed(self, now: float) -> None:
        """One more has died early."""
        if now >= self.until:
            self.failures += 1
            # The exponent is bounded: a channel may fail for weeks, and 2.0 ** 1024 overflows.
            self.until = now + min(FIRST_DELAY * 2.0 ** min(self.failures - 1, 20), LONGEST_DELAY)

    def worked(self) -> None:
        """One has done work: the next early death is the first again."""
        self.failures, self.until = 0, 0.0


class Consumer(msgspec.Struct):
    """A consumer's process that has not been reaped.

    `ready` is what it said last; `counted` is what the scoreboard counted at its fork. `paused` is what it was told
    last, `halted` whether it has said since that it hands out nothing.
    """

    pid: int
    started_at: float
    counted: tuple[int, int] = (0, 0)
    ready: bool = False
    trouble: str = ""
    paused: bool = False
    halted: bool = False
    draining: bool = False
    drained: bool = False
    killed: bool = False


class Worker(msgspec.Struct):
    """A worker's process that has not been reaped.

    `since` is what its slot of the scoreboard said at the fork: another value says that it has begun a
    message. `number` and `deadline` were last seen there; `moved` is by how much that deadline counts later.
    `rss` is what it had resident, in bytes, when that was last looked at while it executed `number`. `dumped_at` is
    when it was told to write its stacks, because it must be killed.
    """

    slot: int
    incarnation: int
    pid: int
    started_at: float
    since: float = 0.0
    started: bool = False
    retiring: bool = False
    finishing_at: float | None = None
    killed: Cause | None = None
    killed_number: int = 0
    details: str = ""
    number: int = 0
    deadline: float = 0.0
    moved: float = 0.0
    rss: int = 0
    dumped_at: float | None = None

    @property
    def leaving(self) -> bool:
        """Whether it is about to go."""
        return self.retiring or self.finishing_at is not None or self.killed is not None

    def observe(self, number: int, deadline: float) -> None:
        """What its slot says now; `moved` and `rss` belong to one message, `dumped_at` to one limit of it."""
        if number != self.number:
            self.moved, self.rss = 0.0, 0
        if (number, deadline) != (self.number, self.deadline):
            self.dumped_at = None
        self.number, self.deadline = number, deadline

    def move(self, late: float) -> None:
        """The supervisor was away for so long: nothing may be held against the worker for that time."""
        self.started_at += late
        self.moved += late
        if self.finishing_at is not None:
            self.finishing_at += late
        if self.dumped_at is not None:
            self.dumped_at += late


class Stop(msgspec.Struct):
    """A stop that has begun: when workers that are left are killed, and when consumers."""

    since: float
    workers_at: float
    consumers_at: float


class Pool(msgspec.Struct):
    """A channel's consumer and workers.

    Attributes:
        desired: how many workers there should be, in the slots from 0.
        memory_limit: bytes a worker may have resident while it executes; None: as many as it wants.
        ever_ready: a consumer of it was ready once, so what it is told to do can be done.
        ever_complete: it was complete once.
        unread: a consumer died in disorder and the scoreboard has not been read since.
        read_at: not before then.
        paused_until: until when no messages are taken, which a suspended machine doesn't move: somebody has looked at
            a clock for it; infinity: until `resume`; None: it isn't paused.
        rolling: during a rolling restart, (slot, incarnation) of the workers that were there before; else None.
        surge: how many workers more than desired there should be: a rolling restart starts one before one goes.
        spared: (slot, number) of messages whose worker was killed to stop it: never to be charged.
        due: from when on a slot may have a new worker.
        starts: how many processes of each kind were forked, `consumer` and `worker`.
        deaths: how many of each kind ended that nobody had told to, by cause.
    """

    name: str
    desired: int
    memory_limit: int | None = None
    consumer: Consumer | None = None
    workers: dict[int, Worker] = {}
    incarnations: dict[int, int] = {}
    ever_ready: bool = False
    ever_complete: bool = False
    unread: bool = False
    read_at: float = 0.0
    paused_until: float | None = None
    rolling: set[tuple[int, int]] | None = None
    surge: int = 0
    spared: list[tuple[int, int]] = []
    due: dict[int, float] = {}
    starts: dict[Kind, int] = msgspec.field(default_factory=lambda: {"consumer": 0, "worker": 0})
    deaths: dict[tuple[Kind, Fate], int] = {}
    consumer_backoff: Backoff = msgspec.field(default_factory=Backoff)
    worker_backoff: Backoff = msgspec.field(default_factory=Backoff)

    @property
    def slots(self) -> range:
        """Those that should have a worker."""
        return range(self.desired + self.surge)

    @property
    def up(self) -> list[Worker]:
        """The desired workers that have run their start hooks; in a rolling restart any count."""
        slots = range(self.desired) if self.rolling is None else self.slots
        return [worker for worker in self.workers.values() if worker.started and worker.slot in slots]

    @property
    def complete(self) -> bool:
        """Whether its consumer fetches and as many workers as desired are up."""
        return self.consumer is not None and self.consumer.ready and len(self.up) >= self.desired

    @property
    def steady(self) -> bool:
        """Whether in each slot that should have one a worker is up, and none is about to go."""
        steady = {worker.slot for worker in self.workers.values() if worker.started and not worker.leaving}
        return self.consumer is not None and steady.issuperset(self.slots)

    @property
    def old(self) -> list[Worker]:
        """The workers that its rolling restart has yet to replace."""
        staying = (worker for worker in self.workers.values() if not worker.leaving)
        return [worker for worker in staying if (worker.slot, worker.incarnation) in (self.rolling or ())]

    @property
    def paused(self) -> bool:
        """Whether its consumer is to take no messages."""
        return self.paused_until is not None

    @property
    def halted(self) -> bool:
        """Whether it is paused, and no further message can be handed to a worker."""
        return self.paused and (self.consumer is None or self.consumer.halted)

    @property
    def empty(self) -> bool:
        """Whether no process of it is left and nothing remains to be written down."""
        return self.consumer is None and not self.workers and not self.unread

    @property
    def pids(self) -> set[int]:
        """Its processes that have not been reaped."""
        pids = {worker.pid for worker in self.workers.values()}
        return pids if self.consumer is None else pids | {self.consumer.pid}

    def note(self) -> None:
        """Something may have changed: whether it is complete now is remembered."""
        self.ever_complete |= self.complete

    def consumer_started(self, pid: int, now: float, counted: tuple[int, int] = (0, 0)) -> Consumer:
        """A consumer was forked."""
        self.starts["consumer"] += 1
        self.consumer = Consumer(pid, now, counted, paused=self.paused, halted=self.paused)
        return self.consumer

    def consumer_gone(self, now: float, *, worked: bool) -> Consumer | None:
        """The consumer was reaped; returns it. Unless it had drained its workers go with it."""
        consumer, self.consumer = self.consumer, None
        if consumer is None:
            return None
        self.unread = not consumer.drained
        self._judge(self.consumer_backoff, now, consumer.started_at, worked=worked)
        return consumer

    def consumer_ready(self, consumer: Consumer) -> None:
        """The consumer fetches from every subscription."""
        consumer.ready = self.ever_ready = True
        consumer.trouble = ""

    def pause(self, until: float) -> None:
        """Somebody wants that no messages are taken until then."""
        self.paused_until = until

    def resume(self) -> None:
        """Somebody wants them taken again, or the time of the pause is over."""
        self.paused_until = None

    def begin_roll(self) -> None:
        """Its workers of now are to be replaced."""
        self.rolling, self.surge = {(worker.slot, worker.incarnation) for worker in self.workers.values()}, 1

    def spoils_roll(self, worker: Worker) -> bool:
        """Whether a worker that has gone is one by which a rolling restart failed: it was new, and never up."""
        if self.rolling is None or self.consumer is None or worker.started or worker.retiring:
            return False
        return worker.killed != "stopped" and (worker.slot, worker.incarnation) not in self.rolling

    def consumer_failed_to_start(self, now: float) -> None:
        """The fork was refused."""
        self.consumer_backoff.failed(now)

    def next_incarnation(self, slot: int) -> int:
        """The incarnation that the slot's next worker will have."""
        return self.incarnations.get(slot, 0) + 1

    def worker_started(self, slot: int, pid: int, now: float, since: float = 0.0) -> Worker:
        """A worker was forked."""
        self.starts["worker"] += 1
        self.incarnations[slot] = incarnation = self.next_incarnation(slot)
        self.workers[slot] = worker = Worker(slot, incarnation, pid, now, since)
        return worker

    def worker_gone(self, slot: int, now: float, *, worked: bool, number: int = 0) -> Worker:
        """A worker was reaped; returns it. `number` is the message it still executed, 0 for none."""
        worker = self.workers.pop(slot)
        self.due.pop(slot, None)
        if worker.killed == "stopped" and number:
            self.spared.append((slot, number))
        if self.consumer is not None and worker.killed != "stopped" and not worker.retiring:
            self._judge(self.worker_backoff, now, worker.started_at, worked=worked)
            self.due[slot] = self.worker_backoff.until
        return worker

    def died(self, kind: Kind, fate: Fate | None) -> None:
        """A process was reaped; None: it was to end."""
        if fate is not None:
            self.deaths[kind, fate] = self.deaths.get((kind, fate), 0) + 1

    def worker_failed_to_start(self, slot: int, now: float) -> None:
        """The fork was refused."""
        self.worker_backoff.failed(now)
        self.due[slot] = self.worker_backoff.until

    def board_read(self) -> None:
        """What is owed has been written down, and the scoreboard is empty."""
        self.unread, self.read_at = False, 0.0
        self.spared = []

    def board_not_read(self, now: float) -> None:
        """What is owed couldn't be written down."""
        self.read_at = now + READ_AGAIN

    def _judge(self, backoff: Backoff, now: float, started_at: float, *, worked: bool) -> None:
        if worked or now - started_at >= STEADY:
            backoff.worked()
        if not worked:
            backoff.failed(now)


class Service(msgspec.Struct):
    """All pools of a service, and whether it runs or stops.

    Attributes:
        renewing: after the stop it starts again.
        rolls: the channels whose workers are to be replaced, in that order; the first one's are being replaced.
        roll_failed: why the last rolling restart was given up; "": it wasn't.
    """

    pools: dict[str, Pool]
    grace: float
    stop: Stop | None = None
    exit_code: int = 0
    renewing: bool = False
    rolls: list[str] = []
    roll_failed: str = ""

    def restart(self, channels: list[str]) -> None:
        """Begins a rolling restart of these, after those still to be done; one that is under way begins anew."""
        self.rolls = [*self.rolls, *(name for name in channels if name not in self.rolls)]
        self.roll_failed = ""
        for name in channels:
            self.pools[name].rolling = None

    def end_roll(self, channel: str) -> None:
        """All workers of a channel have been replaced."""
        self.rolls.remove(channel)
        self.pools[channel].rolling = None

    def give_up_roll(self, why: str) -> None:
        """A new worker has failed, so no further old one goes."""
        self.rolls, self.roll_failed = [], why
        for pool in self.pools.values():
            pool.rolling = None

    def renew(self, now: float) -> None:
        """Begins an orderly stop after which the service starts again, with new code; nothing else may have begun."""
        self.drain(now)
        self.renewing = True

    def drain(self, now: float) -> None:
        """Begins an orderly stop; once it has begun its time doesn't change, but it is no renewal any more."""
        self.renewing = False
        if self.stop is None:
            until = now + self.grace
            self.stop = Stop(now, until, until + CONSUMER_SETTLES)

    def hurry(self, now: float) -> None:
        """Stops at once: consumers may only give back what their workers executed."""
        self.drain(now)
        if self.stop is not None:
            self.stop.workers_at = min(self.stop.workers_at, now)
            self.stop.consumers_at = min(self.stop.consumers_at, now + HURRIED_SETTLES)
        self.cut_short()

    def fail(self, exit_code: int, now: float) -> None:
        """Stops because going on is no use; the first reason gives the exit code."""
        if self.stop is None:
            self.exit_code = exit_code
            self.drain(now)

    def cut_short(self) -> None:
        """Something had to be stopped by force."""
        self.exit_code = self.exit_code or CUT_SHORT

    def move(self, late: float) -> None:
        """The loop was late by so many seconds (suspended, SIGSTOP): all deadlines move by as much."""
        for pool in self.pools.values():
            for worker in pool.workers.values():
                worker.move(late)
        if self.stop is not None:
            self.stop.workers_at += late
            self.stop.consumers_at += late
