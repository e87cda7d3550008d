"""A pool whose consumer is real and whose other processes are played: the supervisor, and workers as puppets.

The links, the scoreboard, the file of what is owed and the store are real too.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from busworker.declaration import ChannelSpec
from busworker.ipc import frames
from busworker.ipc.link import Link, pair
from busworker.ipc.scoreboard import charge_open
from busworker.ipc.tally import Tally
from busworker.jobs import ConsumerJob
from busworker.retention import Retention
from busworker.supervisor.boards import open_board
from tests.support.life.clock import Clock
from tests.support.life.mortal import Consumer, Turn
from tests.support.life.outcomes import outcome_of
from tests.support.life.store import CHANNEL, RULES, SUBSCRIPTIONS, Store
from tests.support.life.table import End, Table, Violation

SLOTS = 2
MOST_TURNS, MOST_TURNS_ON_AMQP = 100, 1500
"""In which everything must have ended, once nothing fails any more. With RabbitMQ true time has to go by."""

Cause: TypeAlias = frames.Cause
Then: TypeAlias = Literal["goes on", "dies", "dies halfway"]
Where: TypeAlias = Literal["consumer", "tree", "elsewhere"]
"""What dies: the consumer, and so its pool; the supervisor as well; and its successor has another scoreboard."""


@dataclass
class Puppet:
    """A worker. `handed` is what it holds by number, oldest first; of that it executes `begun`."""

    slot: int
    incarnation: int
    pid: int
    sock: socket.socket
    handed: dict[int, frames.Handout] = field(default_factory=dict)
    begun: list[int] = field(default_factory=list)
    leaving: bool = False

    def __post_init__(self) -> None:
        self.link = Link(self.sock)

    def send_half(self, frame: frames.Frame) -> None:
        """Its last act."""
        data = frames.encode(frame)
        self.sock.send(data[: len(data) // 2])


@dataclass(frozen=True)
class Deed:
    """How an attempt ends: that of the worker and of its messages which are at these places.

    `after` is the delay that an exception asks for.
    """

    index: int = 0
    which: int = 0
    end: End = "returned"
    after: int | None = None
    then: Then = "goes on"
    publishes: bool = False


@dataclass(frozen=True)
class Aftermath:
    """What follows a death of the consumer: whether workers begin what is in their links, and what else dies."""

    begins: bool = False
    where: Where = "consumer"


class Pool:
    """Plays one pool on a store, and tells the table what happens.

    Args:
        broker: the URL of the bus; empty for a store in `folder`.

    Attributes:
        table, store: what may be, and what is.
        happened: how often each kind of thing did.
    """

    def __init__(self, folder: Path, concurrency: int, clock: Clock, broker: str = "") -> None:
        self.table = Table(RULES["b"])
        self.happened = Counter[str]()
        self.workers: dict[int, Puppet] = {}
        self._folder, self._clock = folder, clock
        self._url = broker or f"filesystem://{folder}/bus?durability=normal"
        self.store = Store(self._url, self.table, self.happened)
        self._most_turns = MOST_TURNS_ON_AMQP if self.store.pushes else MOST_TURNS
        self._concurrency = concurrency
        self._channel = ChannelSpec(CHANNEL, SLOTS, concurrency, None, None, SUBSCRIPTIONS)
        self._tally = Tally(len(SUBSCRIPTIONS))
        self._boards = self._pids = 0
        self._incarnations = Counter[int]()
        self._untold: list[frames.ProcessDied] = []
        self._spared: list[tuple[int, int]] = []
        self._draining = self._released = False
        self._open_board()
        self._start()

    # Turns of the consumer

    def turn(self, turn: Turn = Turn(), after: Aftermath = Aftermath(), *, tell: bool = True) -> None:  # noqa: B008
        """The consumer takes a turn; `tell`: the supervisor has told it of all deaths before."""
        if turn.fault:
            self.happened[f"fault: {turn.fault}"] += 1
        if tell:
            for notice in self._untold:
                self._supervisor.post(notice)
            self._untold.clear()
        self._supervisor.flush()
        self._released = self.table.owes  # as soon as the consumer connects
        before = time.time()
        state = self._consumer.turn(turn, partial(self._settled, before))
        self._hear()
        match state:
            case "dead":
                self._pool_died(after)
            case "over":
                self._drained()
            case "turned" if tell:
                self.table.told()

    def drain(self) -> None:
        if not self._draining:
            self._supervisor.send(frames.Drain())
            self._draining = True

    def kill_consumer(self, after: Aftermath) -> None:
        self._consumer.kill()
        self._pool_died(after)

    def _settled(self, before: float, items: list[tuple[str, int, str]]) -> None:
        for body, attempt, verb in items:
            if verb == "return":
                self.table.returned(body.encode())
                self.happened["returned to the broker"] += 1
            else:
                self.table.settled(body.encode(), attempt, before)

    def _hear(self) -> None:
        for worker in list(self.workers.values()):
            for frame in worker.link.receive():
                match frame:
                    case frames.Handout():
                        self._handed(worker, frame)
                    case frames.Finish():
                        self._finish(worker)
                    case _:
                        raise Violation(f"a worker was sent {frame}")
        for frame in self._supervisor.receive():
            self.happened[f"told: {type(frame).__name__}"] += 1
            self._said_drained = isinstance(frame, frames.Drained)

    def _handed(self, worker: Puppet, handout: frames.Handout) -> None:
        if worker.leaving:
            return  # it doesn't look at it any more
        self.table.handed(handout.body, handout.attempt, handout.key, time.time())
        worker.handed[handout.number] = handout
        if self._concurrency > 1:
            alone = [one.body for one in worker.handed.values() if self.table.lives[one.body].alone]
            if alone and len(worker.handed) > 1:
                raise Violation(f"{alone} must be alone: {worker.handed}")

    # What workers do

    def add_worker(self, slot: int) -> None:
        """A new one, if the consumer knows of the last one's death and the service isn't stopping."""
        if self._draining or slot in self.workers or any(notice.slot == slot for notice in self._untold):
            return
        self._incarnations[slot] += 1
        self._pids += 1
        incarnation, pid = self._incarnations[slot], 1_000_000 + self._pids
        ours, theirs = pair()
        self._board.scoreboard.occupy(slot, incarnation, pid)
        self._supervisor.post(frames.WorkerAdded(slot, incarnation, pid), theirs.fileno())
        theirs.close()
        self.workers[slot] = Puppet(slot, incarnation, pid, ours)

    def retire(self, worker: Puppet) -> None:
        self._supervisor.post(frames.WorkerRetired(worker.slot, worker.incarnation))
        self.happened["retired"] += 1

    def begin(self, worker: Puppet) -> None:
        """It begins the oldest that it was handed, if it can."""
        fresh = [number for number in worker.handed if number not in worker.begun]
        if not fresh or worker.leaving or len(worker.begun) >= self._concurrency:
            return
        handout, board = worker.handed[fresh[0]], self._board.scoreboard
        if self._concurrency == 1:
            board.begin(worker.slot, handout.number, handout.key, handout.id, time.time())
        else:
            board.open_entry(worker.slot, handout.number, handout.key)
            board.show(worker.slot, handout.number, handout.id, time.time(), time.monotonic())
        worker.begun.append(handout.number)
        self.table.begun(handout.body)

    def end(self, worker: Puppet, deed: Deed) -> None:
        """What it executes has ended, and it tells so."""
        if not worker.begun:
            return
        number = worker.begun[deed.which % len(worker.begun)]
        body = worker.handed[number].body
        after = deed.after if deed.end == "exception" else None
        children = (body + b"c",) if deed.publishes and deed.end == "returned" and len(body) < 8 else ()
        finished = frames.Finished(number, 0.0005, outcome_of(deed.end, after, children))
        self.happened[f"outcome sent: {deed.then}"] += 1
        if deed.then == "dies halfway":
            worker.send_half(finished)
            self.die(worker, deed.which, "died")
            return
        worker.link.send(finished)
        self.table.ended(body, deed.end, after, children)
        del worker.handed[number]
        worker.begun.remove(number)
        if deed.then == "dies":
            self.die(worker, deed.which, "died")
        elif self._concurrency == 1:
            self._board.scoreboard.finish(worker.slot, number, time.time())
        else:
            self._board.scoreboard.finish_entry(worker.slot, number)

    def die(self, worker: Puppet, which: int, cause: Cause) -> None:
        """It dies by itself, or is killed at a limit of what it executes, or to stop it."""
        if cause in ("time_limit", "memory_limit") and not worker.begun:
            return
        guilty = worker.begun[which % len(worker.begun)] if worker.begun else 0
        for number, handout in worker.handed.items():
            if number not in worker.begun:
                self.table.given_back(handout.body)
            elif cause == "died" or (cause != "stopped" and number == guilty):
                self.table.ended(handout.body, "crash" if cause == "died" else cause)
            else:
                self.table.given_back(handout.body, untold=True)
        if cause == "stopped" and (shown := self._board.scoreboard.number(worker.slot)):
            self._spared.append((worker.slot, shown))
        limit = cause in ("time_limit", "memory_limit")
        self._gone(worker, "SIGSEGV" if cause == "died" else "SIGKILL", None, cause, guilty if limit else 0)
        self.happened[f"worker {cause}"] += 1

    def leave(self, worker: Puppet) -> None:
        """It wants no more; between messages only."""
        if worker.begun or worker.leaving:
            return
        worker.leaving = True
        for handout in worker.handed.values():
            self.table.given_back(handout.body)
        worker.handed.clear()
        worker.link.send(frames.Leaving("max_messages"))
        self.happened["left"] += 1

    def babble(self, worker: Puppet) -> None:
        """It tells of what it doesn't hold, and the supervisor of who is dead for long: nobody must care."""
        worker.link.send(frames.Finished(10_000_000, 0.1, outcome_of("returned", None, ())))
        self._supervisor.post(frames.ProcessDied(worker.slot, worker.incarnation - 1, 1, "SIGSEGV", None, "died"))
        self.happened["babble"] += 1

    def go_mad(self, worker: Puppet) -> None:
        """It talks nonsense, and dies of it."""
        worker.sock.send(b"\0\0\0\x03abc")
        self.die(worker, 0, "died")
        self.happened["nonsense"] += 1

    def _finish(self, worker: Puppet) -> None:
        if worker.handed:
            raise Violation(f"a worker was told to finish that holds {worker.handed}")
        self._gone(worker, None, 0, "died", 0)

    def _gone(self, worker: Puppet, killer: str | None, code: int | None, cause: Cause, number: int) -> None:
        worker.link.close()
        del self.workers[worker.slot]
        self._untold.append(
            frames.ProcessDied(worker.slot, worker.incarnation, worker.pid, killer, code, cause, number, "a death")
        )

    # The end of a pool

    def _pool_died(self, after: Aftermath) -> None:
        if (code := self._consumer.reap()) != -signal.SIGKILL:
            raise Violation(f"the consumer ended: {code}")
        self._hear()
        for worker in self.workers.values():
            if after.begins:
                self.begin(worker)
            worker.link.close()
        self.workers.clear()
        # What is back in its queue is charged by the pool's own successor alone: no other instance can know of it.
        self._released = self.store.pushes or self._consumer.lost or (self._released and self.table.owes)
        where: Where = "tree" if self._released and after.where == "elsewhere" else after.where
        self.happened[f"killed: {where}"] += 1
        board = self._board.scoreboard
        if where == "consumer":
            for slot, number in self._spared:
                board.spare(slot, number)
        keys = board.open_keys()
        self.table.pool_killed(keys)
        if where == "consumer":
            charge_open(board)
        else:
            self._close_board()
            self._boards += where == "elsewhere"
            self._open_board()
        self._start()

    def _drained(self) -> None:
        if (code := self._consumer.reap()) != 0 or not self._said_drained:
            raise Violation(f"the consumer drained with {code}, and said so: {self._said_drained}")
        keys = self._board.scoreboard.open_keys()
        if self.workers or (keys and not self._consumer.lost):
            raise Violation(f"after the drain there are {self.workers} and open entries: {keys}")
        self.table.pool_killed(keys)  # what was lost with a connection, and didn't come again before the drain
        self.table.in_rest()
        self.happened["drained"] += 1
        self._close_board()
        self._open_board()
        self._start()

    def _start(self) -> None:
        self._untold.clear()
        self._spared.clear()
        self._draining = self._said_drained = False
        ours, theirs = pair()
        job = ConsumerJob(
            self.store.service, self._channel, self._url, theirs, self._board.scoreboard, self._tally, Retention()
        )
        if hasattr(self, "_supervisor"):
            self._supervisor.close()
        self._consumer = Consumer(job, ours)
        self._supervisor = Link(ours)
        for slot in range(SLOTS):
            self.add_worker(slot)

    def _open_board(self) -> None:
        self._board = open_board(self._folder / f"board{self._boards}", SLOTS)

    def _close_board(self) -> None:
        self._board.scoreboard.close()
        os.close(self._board.lock)

    # The end of the play

    def settle_all(self) -> None:
        """Nothing fails any more: everything must end, as the table has it, and lie where it says."""
        for _ in range(self._most_turns):
            self.turn()
            if not self.table.unfinished:
                break
            if not any(worker.handed for worker in self.workers.values()):
                self._clock.forward(0 if self.store.pushes else 1)
            for worker in list(self.workers.values()):
                while worker.handed and not worker.leaving:
                    self.begin(worker)
                    self.end(worker, Deed())
            for slot in range(SLOTS):
                self.add_worker(slot)
        else:
            left = {body: self.table.lives[body] for body in self.table.unfinished}
            raise Violation(f"not settled after {self._most_turns} turns without a fault: {left}")
        drains = self.happened["drained"]
        for _ in range(self._most_turns):
            self.drain()
            self.turn()
            if self.happened["drained"] > drains:
                break
        else:
            raise Violation(f"not drained after {self._most_turns} turns")
        self.store.check()

    def close(self) -> None:
        """Ends the consumer, whatever it does."""
        self._consumer.close()
        for worker in self.workers.values():
            worker.link.close()
        self._supervisor.close()
        self._close_board()
        self.store.close()
