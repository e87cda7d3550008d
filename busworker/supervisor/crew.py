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
from busworker.ipc import frames, stacks
from busworker.ipc.link import Link, pair
from busworker.ipc.scoreboard import Scoreboard
from busworker.supervisor import autopsy, child
from busworker.supervisor.births import Ends, Place, consumer_birth, worker_birth
from busworker.supervisor.boards import read_dead_board
from busworker.supervisor.child import Death
from busworker.supervisor.dumps import Process
from busworker.supervisor.memory import MemoryWatch, OomKills
from busworker.supervisor.orders import Orders
from busworker.supervisor.plan import Dump, Kill
from busworker.supervisor.state import Pool, Service, Worker
from busworker.supervisor.telling import Telling
from busworker.supervisor.traces import Traces

log = logging.getLogger("busworker.supervisor")


class Crew:
    """A pool's processes, links and scoreboard.

    Args:
        orders: what the supervisor runs.
        spec: the pool's channel.
        service: the state, in which the pool's is recorded.
        selector: the loop's; its data is what to call when a link is readable.
        on_counts: called with each `CountsTold`.

    Attributes:
        memory: the watch over what its workers have resident.
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
        self._traces: dict[int, Traces] = {}
        self._oom = OomKills()
        self._tells = Telling(self.name, spec.name)
        self.memory = MemoryWatch(self.board, spec.memory_limit)

    def processes(self) -> list[Process]:
        """Those that haven't been reaped."""
        consumer, workers = self.pool.consumer, self.pool.workers.values()
        found = [] if consumer is None else [Process(f"consumer {self.name}", consumer.pid)]
        return found + [Process(f"worker {self.name}/{worker.slot + 1}", worker.pid) for worker in workers]

    # Starting

    def start_consumer(self) -> None:
        """Forks the consumer; if the system refuses, the state says when to try again."""
        try:
            with ExitStack() as opened:
                self._fork_consumer(opened)
        except OSError as error:
            self._tells.consumer_not_started(error)
            self.pool.consumer_failed_to_start(time.monotonic())

    def _fork_consumer(self, opened: ExitStack) -> None:
        ours, theirs = _ends(opened)
        spec = msgspec.structs.replace(self.spec, processes=self.pool.desired)
        pid = child.fork(consumer_birth(self._orders, spec, theirs, paused=self.pool.paused), self._identity)
        self._consumer = self._watched(ours, self._hear_consumer)
        self.pool.consumer_started(pid, time.monotonic(), self.board.counted())
        self._tells.consumer_started(pid)

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
            self._tells.worker_not_started(slot, error)
            self.pool.worker_failed_to_start(slot, time.monotonic())
            if self.pool.rolling is not None:
                self._give_up_roll(slot, f"it can't be started: {error}")

    def _fork_worker(self, slot: int, opened: ExitStack) -> None:
        self.board.ensure(slot + 1)
        since = self.board.view(slot).since
        (ours, theirs), (consumer_end, worker_end) = _ends(opened), _ends(opened)
        place = Place(self.spec.name, slot, self.pool.next_incarnation(slot))
        traces = Traces(f"worker {self.name}/{slot + 1}", self._selector)
        unused = opened.enter_context(ExitStack())
        unused.callback(traces.close)
        ends = Ends(worker_end, theirs, traces.stacks, traces.output)
        pid = child.fork(worker_birth(self._orders, place, ends), self._identity)
        unused.pop_all()
        traces.forked()
        self._traces[slot] = traces
        worker = self.pool.worker_started(slot, pid, time.monotonic(), since)
        self.board.occupy(slot, worker.incarnation, pid)
        self._orders.tallies[self.spec.name].use(slot)
        self._workers[slot] = self._watched(ours, partial(self._hear_worker, slot))
        self.memory.added(slot, pid)
        theirs.close()
        worker_end.close()  # also so that a descriptor is free for the one that is sent
        self._tell(frames.WorkerAdded(slot, worker.incarnation, pid), consumer_end.fileno())
        self._tells.worker_started(slot, pid)

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
        self._tells.worker_retires(slot)

    def drain(self) -> None:
        """Tells the consumer to stop fetching, to let finish, and to give the rest back."""
        if self.pool.consumer is not None:
            self.pool.consumer.draining = True
            self._tell(frames.Drain())

    def tell_pause(self) -> None:
        """Tells the consumer whether it is to take messages."""
        if (consumer := self.pool.consumer) is not None:
            consumer.paused, consumer.halted = self.pool.paused, False
            self._tell(frames.Pause() if consumer.paused else frames.Resume())

    def ask_counts(self, request: int) -> bool:
        """Asks the consumer for its counts; False: there is none."""
        self._tell(frames.CountsWanted(request))
        return self._consumer is not None

    def dump(self, action: Dump) -> None:
        """Has a worker write its stacks and die, unless its message has ended meanwhile."""
        worker = self.pool.workers[action.slot]
        pending = worker.killed is None and worker.dumped_at is None  # two limits may be over at once
        if pending and self._unchanged(worker):
            traces = self._traces[worker.slot]
            traces.forget()
            worker.dumped_at = time.monotonic()
            traces.planned = action.kill
            os.kill(worker.pid, stacks.DUMP_SIGNAL)

    def kill(self, action: Kill) -> None:
        """Kill -9. A worker whose message has ended meanwhile is spared: its limit was another message's."""
        if action.slot is None:
            self._kill_consumer(action)
            return
        worker = self.pool.workers[action.slot]
        if action.number and not self._unchanged(worker):
            self._traces[worker.slot].forget()
            return
        if worker.killed is None:
            self._condemn(worker, action)
            os.kill(action.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own

    def _condemn(self, worker: Worker, action: Kill) -> None:
        worker.killed, worker.killed_number = action.cause, action.number
        ran = time.monotonic() - self.board.begun(worker.slot) - worker.moved  # what we were away doesn't count
        worker.details = action.details or autopsy.over_limit(worker, action.cause, ran, self.spec.memory_limit)
        self._killed(action, worker.details)

    def _unchanged(self, worker: Worker) -> bool:
        """Whether the worker still executes the message, under the limit, that was last seen."""
        planned = worker.number, worker.deadline
        self._observe(worker)
        return planned == (worker.number, worker.deadline)

    def _kill_consumer(self, action: Kill) -> None:
        if self.pool.consumer is not None:
            self.pool.consumer.killed = True
            os.kill(action.pid, signal.SIGKILL)
            self._killed(action, action.details)

    def _killed(self, action: Kill, details: str) -> None:
        if self._service.stop is not None and action.cause == "stopped":
            self._service.cut_short()
        self._tells.killed(action.slot, action.pid, action.cause, details)

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
        self.memory.look(self.pool.workers, time.monotonic())

    def _observe(self, worker: Worker) -> None:
        # The deadline first: a message that ends in between leaves a pair that `kill` finds changed.
        deadline = self.board.deadline(worker.slot)
        worker.observe(self.board.number(worker.slot), deadline)

    def _hear_consumer(self) -> None:
        if self._consumer is not None:
            self.flush()
            for frame in self._received(self._consumer):
                self._obey(frame)

    def _obey(self, frame: frames.Frame) -> None:
        match frame:
            case frames.Ready():
                self._ready()
            case frames.Troubled(error, exit_code):
                self._troubled(error, exit_code)
            case frames.CountsTold():
                self._on_counts(self.spec.name, frame)
            case frames.WorkerDone():
                self._finishing(frame)
            case frames.Paused():
                if self.pool.consumer is not None:
                    self.pool.consumer.halted = self.pool.consumer.paused
            case frames.Drained():
                if self.pool.consumer is not None:
                    self.pool.consumer.drained = True
            case _:
                log.error("consumer %s sent %s, which is ignored", self.name, type(frame).__name__)

    def _ready(self) -> None:
        if (consumer := self.pool.consumer) is not None:
            self.pool.consumer_ready(consumer)
            self._tells.consumer_ready()

    def _troubled(self, error: str, exit_code: int | None) -> None:
        if (consumer := self.pool.consumer) is None:
            return
        consumer.ready, consumer.trouble = False, error
        if exit_code is not None:
            self._tells.stuck(error)
            if not self.pool.ever_ready:  # else what it needs was taken away meanwhile: it tries on
                self._service.fail(exit_code, time.monotonic())

    def _finishing(self, done: frames.WorkerDone) -> None:
        worker = self.pool.workers.get(done.slot)
        if worker is None or worker.incarnation != done.incarnation:
            return
        worker.finishing_at = time.monotonic()
        if done.reason:
            self._tells.worker_replaced(done.slot, done.reason)

    def _hear_worker(self, slot: int) -> None:
        link, worker = self._workers.get(slot), self.pool.workers.get(slot)
        if link is None or worker is None:
            return
        for frame in self._received(link):
            match frame:
                case frames.Started():
                    worker.started = True
                    self._tells.worker_ready(slot, worker.pid)
                case frames.Begun():
                    self.memory.begun(slot)
                case _:
                    log.error("worker %s/%d sent %s, which is ignored", self.name, slot + 1, type(frame).__name__)

    def _received(self, link: Link) -> list[frames.Frame]:
        """What has come; a link that is closed or talks nonsense is no longer listened to."""
        try:
            received = link.receive()
        except ProtocolError as error:
            self._tells.nonsense(error)
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
            ended = child.reaped(self.pool.consumer.pid)
            if ended is not None:
                self._bury_consumer(ended)
        for worker in list(self.pool.workers.values()):
            ended = child.reaped(worker.pid)
            if ended is not None:
                self._bury_worker(worker, ended)

    def _bury_worker(self, worker: Worker, ended: Death) -> None:
        self._hear_consumer()  # why it finishes, if it was to
        self._hear_worker(worker.slot)
        view = self.board.view(worker.slot)
        self._drop(self._workers.pop(worker.slot))
        self.memory.removed(worker.slot)
        traces = self._traces.pop(worker.slot)
        if traces.planned is not None and ended.signal == stacks.DUMP_SIGNAL_NAME:
            self._condemn(worker, traces.planned)
            ended = Death("SIGKILL", None, ended.rss)  # by which signal we killed it concerns nobody
        left = traces.close()
        oom = ended.signal == "SIGKILL" and worker.killed is None and self._oom.took_one()
        self.pool.worker_gone(worker.slot, time.monotonic(), worked=view.since != worker.since, number=view.number)
        self._tell(autopsy.notice(worker, ended, left, oom=oom))
        self._tell_end(worker, ended, view.message_id)
        if self.pool.spoils_roll(worker):
            self._give_up_roll(worker.slot, f"{worker.details or ended}, before it was ready")
        if left is not None and not view.number:  # no dead letter will carry it
            self._tells.stacks(worker.slot, left)

    def _tell_end(self, worker: Worker, ended: Death, message_id: str) -> None:
        stopping = self._service.stop is not None
        self.pool.died("worker", autopsy.fate(worker, ended, stopping=stopping))
        delay = 0.0 if stopping else self.pool.due.get(worker.slot, 0.0) - time.monotonic()
        self._tells.worker_ended(worker, ended, message_id, delay, stopping=stopping)

    def _give_up_roll(self, slot: int, why: str) -> None:
        text = f"the new worker {self.name}/{slot + 1} failed ({why})"
        self._service.give_up_roll(text)
        self._tells.roll_given_up(slot, text)

    def _bury_consumer(self, ended: Death) -> None:
        self._hear_consumer()
        consumer = self.pool.consumer
        executing = any(self.board.number(slot) for slot in self.pool.workers)
        worked = executing or (consumer is not None and self.board.counted() != consumer.counted)
        if self._consumer is not None:
            self._drop(self._consumer)
            self._consumer = None
        gone = self.pool.consumer_gone(time.monotonic(), worked=worked)
        if gone is not None and not gone.drained:
            self.pool.died("consumer", None if gone.killed else autopsy.by_itself(ended))
            self._tells.consumer_died(gone.pid, ended)
            if self._service.stop is not None:
                self._service.cut_short()
        elif gone is not None:
            self._tells.consumer_drained()

    def read_board(self) -> None:
        """Writes down what the dead pool owes; see `read_dead_board`."""
        read_dead_board(self.name, self.pool, self.board, stopping=self._service.stop is not None)

    def _drop(self, link: Link) -> None:
        if link in self._selector.get_map():
            self._selector.unregister(link)
        link.close()


def _ends(opened: ExitStack) -> tuple[socket.socket, socket.socket]:
    """A new link; what is not detached from its two ends is closed with the stack."""
    ours, theirs = pair()
    return opened.enter_context(ours), opened.enter_context(theirs)
