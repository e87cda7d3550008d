"""The worker's loop: take a message from the consumer, run its handler, send the outcome."""

from __future__ import annotations

import logging
import os
import time

from busworker import application
from busworker.ipc import frames, stacks
from busworker.ipc.link import Link
from busworker.jobs import WorkerJob
from busworker.worker.attempt import Runner
from busworker.worker.crowd import Crowd
from busworker.worker.desk import Desk
from busworker.worker.limit import Look
from busworker.worker.mailbox import Mailbox
from busworker.worker.port import WorkerPort
from busworker.worker.recycling import Recycling
from busworker.worker.surroundings import Surroundings

THOROUGH_SECONDS = 0.0002
"""What a handler takes at least for a thorough look at what it left not to be felt."""

log = logging.getLogger("busworker.worker")


def main(job: WorkerJob) -> int:
    """Runs a worker until it is told to finish: 0; or until its consumer is gone: 1."""
    return Worker(job).run()


class Worker:
    """The process that runs the handlers of one channel."""

    def __init__(self, job: WorkerJob) -> None:
        stacks.write_into(job.stacks)
        self._job = job
        self._board = job.board
        self._supervisor = Link(job.supervisor, blocking=True)
        self._link = Link(job.link, blocking=True)
        self._mailbox = Mailbox(self._link)
        self._bus = job.bus if job.bus is not None else application.load(job.app)
        self._bus.use_port(WorkerPort(self._mailbox, self._bus.publish_deadline))
        self._runner = Runner(self._bus, job.channel, self._set_deadline, self._look)
        title = f"busworker: worker {self._bus.name}.{job.channel}/{job.slot + 1}"
        self._desk = Desk(job.board, job.tally, job.slot, self._mailbox, self._supervisor, title)
        self._spec = self._bus.channels[job.channel].spec
        self._recycling = Recycling(self._spec.max_messages, self._spec.memory_limit)
        # A child that a handler forks must not keep the link or the pool's lock: the death of this worker, and of
        # the pool, shows in both.
        os.register_at_fork(after_in_child=self._let_go)

    def run(self) -> int:
        """The loop."""
        for hook in self._bus.worker_start_hooks:
            self._runner.run_hook(hook)
        orderly = self._execute_beside() if self._spec.concurrency > 1 else self._execute_one_by_one()
        return self._finish() if orderly else 1

    def _execute_one_by_one(self) -> bool:
        """Executes until it is told to finish: True; or until the consumer is gone: False."""
        surroundings = self._start_clean()
        self._supervisor.send(frames.Started())
        while True:
            if not self._mailbox.has_order:
                self._desk.entitle("idle")
            order = self._mailbox.next_order()
            match order:
                case frames.Handout():
                    seconds = self._execute(order)
                    thorough = seconds > THOROUGH_SECONDS or not self._mailbox.has_order
                    reason = self._recycling.reason() or surroundings.restore(thorough=thorough)
                    if reason is not None:
                        return self._leave(reason)
                case frames.Finish():
                    return True
                case None:
                    return False

    def _execute_beside(self) -> bool:
        """As `_execute_one_by_one`, several at a time."""
        crowd = Crowd(
            self._spec.concurrency, self._mailbox, self._desk, self._runner, self._recycling, self._start_clean
        )
        self._supervisor.send(frames.Started())
        return self._runner.serve(crowd.serve())

    def _execute(self, handout: frames.Handout) -> float:
        """Runs the handler and reports; the seconds that it took."""
        since = self._desk.begin_alone(handout)
        started = time.monotonic()
        outcome = self._runner.run(handout)
        seconds = time.monotonic() - started
        self._desk.finished(handout, since, seconds, outcome, last=True)
        return seconds

    def _start_clean(self) -> Surroundings:
        """Remembers how this process is before its first message, as each message shall find it."""
        kept = (0, 1, 2, self._link.fileno(), self._supervisor.fileno(), self._job.stacks, self._job.log_stacks)
        return Surroundings(os.getppid(), kept, self._write_stacks)

    def _write_stacks(self) -> None:
        stacks.write_into(self._job.stacks)
        stacks.take_part(self._job.log_stacks)

    def _leave(self, reason: str) -> bool:
        """Executes nothing more: the consumer gives what this process was handed to others."""
        self._mailbox.send(frames.Leaving(reason))
        while (order := self._mailbox.next_order()) is not None:
            if isinstance(order, frames.Finish):
                return True
        return False

    def _finish(self) -> int:
        self._desk.entitle("stopping")
        for hook in self._bus.worker_stop_hooks:
            self._runner.run_hook(hook)
        self._runner.close()
        return 0

    def _set_deadline(self, seconds: float | None) -> None:
        self._desk.set_deadline(0.0 if seconds is None else time.monotonic() + seconds)

    def _look(self) -> Look:
        return Look(*self._board.turned())

    def _let_go(self) -> None:
        self._link.close()
        self._supervisor.close()
        self._board.close()
