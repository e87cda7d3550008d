"""One pool's processes as the supervisor handles them: forked, linked, heard, killed and buried.

It obeys actions and records facts in the pool's state; what to do next is `plan`'s to say.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import msgspec

from busworker.declaration import ChannelSpec
from busworker.errors import ProtocolError
from busworker.ipc import frames
from busworker.ipc.link import Link, pair
from busworker.ipc.scoreboard import Owed, Scoreboard
from busworker.supervisor import child
from busworker.supervisor.births import Place, consumer_birth, worker_birth
from busworker.supervisor.child import Death
from busworker.supervisor.orders import Orders
from busworker.supervisor.plan import Kill
from busworker.supervisor.state import Pool, Service, Worker

log = logging.getLogger("busworker.supervisor")


class Crew:
    """A pool's processes, links and scoreboard.

    Args:
        orders: what the supervisor runs.
        spec: the pool's channel.
        service: the state, in which the pool's is recorded.
        selector: the loop's; its data is what to call when a link is readable.
        on_counts: called with each `CountsTold`.
    """

    def __init__(
        self,
        orders: Orders,
        spec: ChannelSpec,
        service: Service,
        selector: selectors.BaseSelector,
        on_counts: Callable[[str, frames.CountsTold], None],
    ) -> None:
        self.spec = spec
        self.pool: Pool = service.pools[spec.name]
        self.board: Scoreboard = orders.boards[spec.name].scoreboard
        self.name = f"{orders.service.name}.{spec.name}"
        self._orders = orders
        self._identity = orders.boards[spec.name].identity
        self._service = service
        self._selector = selector
        self._on_counts = on_counts
        self._consumer: Link | None = None
        self._workers: dict[int, Link] = {}

    # Starting

    def start_consumer(self) -> None:
        """Forks the consumer; if the system refuses, the state says when to try again."""
        try:
            with ExitStack() as opened:
                self._fork_consumer(opened)
        except OSError as error:
            log.error("consumer %s can't be started: %s", self.name, error)
            self.pool.consumer_failed_to_start(time.monotonic())

    def _fork_consumer(self, opened: ExitStack) -> None:
        ours, theirs = _ends(opened)
        spec = msgspec.structs.replace(self.spec, processes=self.pool.desired)
        pid = child.fork(consumer_birth(self._orders, spec, theirs), self._identity)
        self._consumer = self._watched(ours, self._hear_consumer)
        self.pool.consumer_started(pid, time.monotonic(), self.board.counted())
        log.info("consumer %s started, pid %d", self.name, pid)

    def start_worker(self, slot: int) -> None:
        """Forks a worker and gives the consumer the other end of its link; if refused, not before a delay.

        Guarantees:
            The scoreboard knows the worker before the consumer does, so before it is handed anything. The
            consumer has heard of the death of the slot's last worker by then. Nobody else keeps an end of the
            two links.
        """
        try:
            with ExitStack() as opened:
                self._fork_worker(slot, opened)
        except OSError as error:
            log.error("worker %s/%d can't be started: %s", self.name, slot + 1, error)
            self.pool.worker_failed_to_start(slot, time.monotonic())

    def _fork_worker(self, slot: int, opened: ExitStack) -> None:
        self.board.ensure(slot + 1)
        since = self.board.view(slot).since
        (ours, theirs), (consumer_end, worker_end) = _ends(opened), _ends(opened)
        place = Place(self.spec.name, slot, self.pool.next_incarnation(slot))
        pid = child.fork(worker_birth(self._orders, place, worker_end, theirs), self._identity)
        worker = self.pool.worker_started(slot, pid, time.monotonic(), since)
        self.board.occupy(slot, worker.incarnation, pid)
        self._workers[slot] = self._watched(ours, partial(self._hear_worker, slot))
        theirs.close()
        worker_end.close()  # also so that a descriptor is free for the one that is sent
        self._tell(frames.WorkerAdded(slot, worker.incarnation, pid), consumer_end.fileno())
        log.debug("worker %s/%d started, pid %d", self.name, slot + 1, pid)

    def _watched(self, sock: socket.socket, hear: Callable[[], None]) -> Link:
        link = Link(socket.socket(fileno=sock.detach()))  # detached: no longer closed with the others
        self._selector.register(link, selectors.EVENT_READ, hear)
        return link

    # Telling

    def retire(self, slot: int) -> None:
        """Lets a worker go when it has finished what it executes."""
        worker = self.pool.workers[slot]
        worker.retiring = True
        self._tell(frames.WorkerRetired(slot, worker.incarnation))
        log.info("worker %s/%d retires", self.name, slot + 1)

    def drain(self) -> None:
        """Tells the consumer to stop fetching, to let finish, and to give the rest back."""
        if self.pool.consumer is not None:
            self.pool.consumer.draining = True
            self._tell(frames.Drain())

    def ask_counts(self, request: int) -> bool:
        """Asks the consumer for its counts; False: there is none."""
        self._tell(frames.CountsWanted(request))
        return self._consumer is not None

    def kill(self, action: Kill) -> None:
        """Kill -9. A worker whose message has ended meanwhile is spared: its limit was another message's."""
        if action.slot is None:
            self._kill_consumer(action)
            return
        worker = self.pool.workers[action.slot]
        if action.cause == "time_limit":
            planned = worker.number, worker.deadline
            self._observe(worker)
            if planned != (worker.number, worker.deadline):
                return
        if worker.killed is None:
            worker.killed, worker.killed_number, worker.details = action.cause, action.number, action.details
            os.kill(action.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
            self._killed(action)

    def _kill_consumer(self, action: Kill) -> None:
        if self.pool.consumer is not None:
            self.pool.consumer.killed = True
            os.kill(action.pid, signal.SIGKILL)
            self._killed(action)

    def _killed(self, action: Kill) -> None:
        if self._service.stop is not None and action.cause == "stopped":
            self._service.cut_short()
        who = f"consumer {self.name}" if action.slot is None else f"worker {self.name}/{action.slot + 1}"
        log.log(
            logging.WARNING if action.cause in ("time_limit", "memory_limit") else logging.INFO,
            "%s killed, pid %d: %s",
            who,
            action.pid,
            action.details or action.cause,
        )

    def _tell(self, frame: frames.Frame, descriptor: int | None = None) -> None:
        if self._consumer is not None:
            self._consumer.post(frame, descriptor)
            self.flush()

    def flush(self) -> None:
        """Sends what the consumer takes now, and selects for writing exactly while something is left."""
        link = self._consumer
        if link is None or link.closed:
            return
        link.flush()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.unsent else 0)
        key = self._selector.get_key(link)
        if key.events != wanted:
            self._selector.modify(link, wanted, key.data)

    # Hearing

    def observe(self) -> None:
        """Reads from the scoreboard what each worker executes and until when it may."""
        for worker in self.pool.workers.values():
            self._observe(worker)

    def _observe(self, worker: Worker) -> None:
        # The deadline first: a message that ends in between leaves a pair that `kill` finds changed.
        deadline = self.board.deadline(worker.slot)
        worker.observe(self.board.number(worker.slot), deadline)

    def tell_moved(self) -> None:
        """Writes into the scoreboard by how much the workers' deadlines have moved."""
        for worker in self.pool.workers.values():
            self.board.write_moved(worker.slot, worker.number, worker.moved)

    def _hear_consumer(self) -> None:
        link = self._consumer
        if link is None:
            return
        self.flush()
        for frame in self._received(link):
            self._obey(frame)

    def _obey(self, frame: frames.Frame) -> None:
        match frame:
            case frames.Ready():
                self._ready()
            case frames.Troubled(error, exit_code):
                self._troubled(error, exit_code)
            case frames.CountsTold():
                self._on_counts(self.spec.name, frame)
            case frames.WorkerDone(slot, incarnation):
                self._finishing(slot, incarnation)
            case frames.Drained():
                if self.pool.consumer is not None:
                    self.pool.consumer.drained = True
            case _:
                log.error("consumer %s sent %s, which is ignored", self.name, type(frame).__name__)

    def _ready(self) -> None:
        consumer = self.pool.consumer
        if consumer is not None:
            self.pool.consumer_ready(consumer)
            log.info("consumer %s ready", self.name)

    def _troubled(self, error: str, exit_code: int | None) -> None:
        consumer = self.pool.consumer
        if consumer is None:
            return
        consumer.ready, consumer.trouble = False, error
        if exit_code is not None and not self.pool.ever_ready:
            log.error("%s can't go on: %s", self.name, error)
            self._service.fail(exit_code, time.monotonic())

    def _finishing(self, slot: int, incarnation: int) -> None:
        worker = self.pool.workers.get(slot)
        if worker is not None and worker.incarnation == incarnation:
            worker.finishing_at = time.monotonic()

    def _hear_worker(self, slot: int) -> None:
        link, worker = self._workers.get(slot), self.pool.workers.get(slot)
        if link is None or worker is None:
            return
        for frame in self._received(link):
            if isinstance(frame, frames.Started):
                worker.started = True
                log.info("worker %s/%d ready, pid %d", self.name, slot + 1, worker.pid)
            else:
                log.error("worker %s/%d sent %s, which is ignored", self.name, slot + 1, type(frame).__name__)

    def _received(self, link: Link) -> list[frames.Frame]:
        """What has come; a link that is closed or talks nonsense is no longer listened to."""
        try:
            received = link.receive()
        except ProtocolError as error:
            log.error("a process of %s sent nonsense, its link is dropped: %s", self.name, error)
            link.closed, received = True, []
        if link.closed and link in self._selector.get_map():
            self._selector.unregister(link)
        return received

    # Burying

    def reap(self) -> None:
        """Collects those that have died.

        The consumer first: a worker that ends because its consumer is gone doesn't fail at its start.
        """
        if self.pool.consumer is not None:
            ended = _reaped(self.pool.consumer.pid)
            if ended is not None:
                self._bury_consumer(ended)
        for worker in list(self.pool.workers.values()):
            ended = _reaped(worker.pid)
            if ended is not None:
                self._bury_worker(worker, ended)

    def _bury_worker(self, worker: Worker, ended: Death) -> None:
        self._hear_worker(worker.slot)
        view = self.board.view(worker.slot)
        self._drop(self._workers.pop(worker.slot))
        self.pool.worker_gone(worker.slot, time.monotonic(), worked=view.since != worker.since, number=view.number)
        self._tell(
            frames.ProcessDied(
                slot=worker.slot,
                incarnation=worker.incarnation,
                pid=worker.pid,
                signal=ended.signal,
                exit_code=ended.exit_code,
                cause=worker.killed or "died",
                number=worker.killed_number,
                details=worker.details,
            )
        )
        self._tell_worker_death(worker, ended, view.message_id)

    def _tell_worker_death(self, worker: Worker, ended: Death, message_id: str) -> None:
        told = worker.retiring or worker.finishing_at is not None or self._service.stop is not None
        orderly = told and ended.exit_code == 0
        delay = self.pool.due.get(worker.slot, 0.0) - time.monotonic()
        log.log(
            logging.INFO if worker.killed or orderly else logging.WARNING,
            "worker %s/%d %s, pid %d: %s%s%s",
            self.name,
            worker.slot + 1,
            "ended" if orderly else "died",
            worker.pid,
            ended,
            f", executing message {message_id}" if message_id else "",
            f", its replacement starts in {delay:.1f} s" if delay > 0 and self._service.stop is None else "",
        )

    def _bury_consumer(self, ended: Death) -> None:
        self._hear_consumer()
        before, consumer = self.board.counted(), self.pool.consumer
        executing = any(self.board.number(slot) for slot in self.pool.workers)
        if self._consumer is not None:
            self._drop(self._consumer)
            self._consumer = None
        worked = executing or (consumer is not None and before != consumer.counted)
        gone = self.pool.consumer_gone(time.monotonic(), worked=worked)
        if gone is not None and not gone.drained:
            log.warning("consumer %s died, pid %d: %s", self.name, gone.pid, ended)
            if self._service.stop is not None:
                self._service.cut_short()
        elif gone is not None:
            log.info("consumer %s drained", self.name)

    def read_board(self) -> None:
        """Writes down what the dead pool owes, then empties its scoreboard; the counters stay."""
        for slot, number in self.pool.spared:
            self.board.close_entry(slot, number)  # the consumer that writes this field is dead
        keys = self.board.open_keys()
        Owed(self.board.path).add(keys)
        self.board.wipe()
        self.pool.board_read()
        if keys:
            log.warning(
                "%s: %d messages were executing or not settled; each is charged an attempt",
                self.name,
                len(keys),
            )

    def _drop(self, link: Link) -> None:
        if link in self._selector.get_map():
            self._selector.unregister(link)
        link.close()


def _ends(opened: ExitStack) -> tuple[socket.socket, socket.socket]:
    """A new link; what is not detached from its two ends is closed with the stack."""
    ours, theirs = pair()
    return opened.enter_context(ours), opened.enter_context(theirs)


def _reaped(pid: int) -> Death | None:
    """How our child ended, None while it lives. Only our own pids: an import may have forked."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # the application's import left a thread that reaped it
        return Death(None, None)
    return child.death(status) if done else None
