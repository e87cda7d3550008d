"""The worker's loop: take a message from the consumer, run its handler, send the outcome."""

from __future__ import annotations

import logging
import os
import time

import setproctitle

from busworker import application
from busworker import outcome as how
from busworker.errors import ProtocolError
from busworker.ipc import frames
from busworker.ipc.link import Link
from busworker.jobs import WorkerJob
from busworker.outcome import Error
from busworker.worker.attempt import Runner
from busworker.worker.limit import Look
from busworker.worker.mailbox import Mailbox
from busworker.worker.port import WorkerPort

log = logging.getLogger("busworker.worker")


def main(job: WorkerJob) -> int:
    """Runs a worker until it is told to finish: 0; or until its consumer is gone: 1."""
    return Worker(job).run()


class Worker:
    """The process that runs the handlers of one channel, one message at a time."""

    def __init__(self, job: WorkerJob) -> None:
        self._job = job
        self._board = job.board
        self._pid = os.getpid()
        self._supervisor = Link(job.supervisor, blocking=True)
        self._link = Link(job.link, blocking=True)
        self._mailbox = Mailbox(self._link)
        self._bus = job.bus if job.bus is not None else application.load(job.app)
        self._bus.use_port(WorkerPort(self._mailbox, self._bus.publish_deadline, delays=job.delays))
        self._runner = Runner(self._bus, job.channel, self._set_deadline, self._look)
        self._number = 0
        self._title = f"busworker: worker {self._bus.name}.{job.channel}/{job.slot + 1}"
        # A child that a handler forks must not keep the link or the pool's lock: the death of this worker, and of
        # the pool, shows in both.
        os.register_at_fork(after_in_child=self._leave)

    def run(self) -> int:
        """The loop."""
        for hook in self._bus.worker_start_hooks:
            self._runner.run_hook(hook)
        self._supervisor.send(frames.Started())
        while True:
            if not self._mailbox.has_order:
                self._show("idle")
            order = self._mailbox.next_order()
            match order:
                case frames.Handout():
                    self._execute(order)
                case frames.Finish():
                    return self._finish()
                case None:
                    return 1

    def _execute(self, handout: frames.Handout) -> None:
        slot, number = self._job.slot, handout.number
        self._number = number
        self._show(f"{handout.topic} {handout.id[:6]}")
        self._board.begin(slot, number, handout.key, handout.id, time.time())
        started = time.monotonic()
        outcome = self._runner.run(handout)
        if os.getpid() != self._pid:
            os._exit(0)  # a child that the handler forked has come back here: it settles nothing
        self._report(frames.Finished(number, time.monotonic() - started, outcome))
        # Only now: a finished entry says that the outcome is in the link.
        self._board.finish(slot, number, time.time())

    def _report(self, finished: frames.Finished) -> None:
        try:
            self._mailbox.send(finished)
        except ProtocolError as error:
            failed = how.Raised(Error("PublishFailed", f"the attempt published too much: {error}"))
            self._mailbox.send(frames.Finished(finished.number, finished.seconds, failed))

    def _finish(self) -> int:
        self._show("stopping")
        for hook in self._bus.worker_stop_hooks:
            self._runner.run_hook(hook)
        self._runner.close()
        return 0

    def _set_deadline(self, seconds: float | None) -> None:
        self._board.write_deadline(self._job.slot, 0.0 if seconds is None else time.monotonic() + seconds)

    def _look(self) -> Look:
        return Look(self._board.turned(), self._board.moved(self._job.slot, self._number))

    def _show(self, what: str) -> None:
        setproctitle.setproctitle(f"{self._title} {what}")

    def _leave(self) -> None:
        self._link.close()
        self._supervisor.close()
        self._board.close()
