"""The worker's loop for `concurrency` over 1: several `async def` handlers at a time, in one event loop."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from functools import partial

from busworker.ipc import frames
from busworker.worker.attempt import Runner
from busworker.worker.desk import Desk, Executing
from busworker.worker.mailbox import Mailbox
from busworker.worker.recycling import Recycling
from busworker.worker.surroundings import Surroundings


class Crowd:
    """Runs the attempts of a worker beside each other.

    Args:
        concurrency: how many at a time; more that were handed out wait here.
        mailbox: where they come from.
        desk: where it is told what becomes of them.
        runner: runs one.
        recycling: says after how many the worker is replaced.
        start_clean: remembers how the process is before the first message.
    """

    def __init__(
        self,
        concurrency: int,
        mailbox: Mailbox,
        desk: Desk,
        runner: Runner,
        recycling: Recycling,
        start_clean: Callable[[], Surroundings],
    ) -> None:
        self._concurrency = concurrency
        self._mailbox = mailbox
        self._desk = desk
        self._runner = runner
        self._recycling = recycling
        self._start_clean = start_clean
        self._executing: dict[int, Executing] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: str | None = None

    async def serve(self) -> bool:
        """Executes until the consumer says that it's enough: True; or is gone: False."""
        loop = asyncio.get_running_loop()
        self._over: asyncio.Future[bool] = loop.create_future()
        self._surroundings = self._start_clean()
        self._mailbox.on_order = self._wake
        loop.add_reader(self._mailbox.fileno(), self._hear)
        self._desk.entitle("idle")
        self._take()
        try:
            return await self._over
        finally:
            loop.remove_reader(self._mailbox.fileno())
            self._mailbox.on_order = None

    def _wake(self) -> None:
        self._over.get_loop().call_soon_threadsafe(self._take)

    def _hear(self) -> None:
        if not self._mailbox.look():
            self._end(False)

    def _take(self) -> None:
        """Begins what has come, as far as there is room. A worker that leaves begins nothing more."""
        while len(self._executing) < self._concurrency and (self._leaving is None or not self._executing):
            order = self._mailbox.take_order()
            match order:
                case frames.Handout() if self._leaving is None:
                    self._begin(order)
                case frames.Handout():
                    continue  # the consumer gives it to another
                case frames.Finish():
                    self._end(True)
                case None:
                    return

    def _begin(self, handout: frames.Handout) -> None:
        self._executing[handout.number] = self._desk.begin(handout)
        self._desk.show(self._executing)
        task = asyncio.get_running_loop().create_task(self._attempt(handout), context=contextvars.copy_context())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _attempt(self, handout: frames.Handout) -> None:
        one = self._executing[handout.number]
        outcome = await self._runner.run_beside(handout, partial(self._set_deadline, one))
        del self._executing[handout.number]
        seconds = time.monotonic() - one.begun
        self._desk.finished(handout, one.since, seconds, outcome, last=not self._executing)
        self._desk.show(self._executing)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = RuntimeError("the task of an attempt was cancelled") if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)
            return
        self._leaving = self._leaving or self._recycling.reason()
        if not self._executing:
            self._leaving = self._leaving or self._surroundings.restore(thorough=True)
            if self._leaving is not None:
                self._mailbox.send(frames.Leaving(self._leaving))
        self._take()

    def _set_deadline(self, one: Executing, seconds: float) -> None:
        one.deadline = time.monotonic() + seconds
        if one.handout.number in self._executing:
            self._desk.show(self._executing)

    def _end(self, orderly: bool) -> None:
        if not self._over.done():
            self._over.set_result(orderly)

    def _fail(self, error: BaseException) -> None:
        if not self._over.done():
            self._over.set_exception(error)
