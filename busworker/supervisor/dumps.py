"""The stacks of all processes for the log, on SIGUSR1: one process after the other, each under its name.

A process writes its stacks by a signal handler in C (faulthandler), which needs neither the interpreter's lock nor
memory: so one that hangs in C code does it too. It writes into a file in memory that all share and the supervisor
reads: stderr may be a full pipe, and the lines of several processes would mix there.
"""

from __future__ import annotations

import faulthandler
import logging
import os
from collections import deque
from collections.abc import Iterable, Set
from typing import NamedTuple

from busworker import procfs
from busworker.ipc.stacks import LOG_SIGNAL
from busworker.log_fields import event

log = logging.getLogger("busworker.supervisor")

POLL = 0.01
PATIENCE = 0.5
"""Seconds that a process has to begin with its stacks; it takes 1 ms if it gets a core at once."""
MOST_BYTES = 64 * 1024
_BIT = 1 << (LOG_SIGNAL - 1)


class Process(NamedTuple):
    """A process whose stacks are wanted."""

    role: str
    pid: int


class Dumps:
    """Asks one process after the other for its stacks, within the supervisor's loop.

    Args:
        file: the descriptor of the shared file, which every child keeps.

    Attributes:
        next_due: when to call `turn`; monotonic seconds.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self.next_due = float("inf")
        self._asked: deque[Process] = deque()
        self._since = 0.0
        self._size = -1

    def ask(self, processes: Iterable[Process]) -> None:
        """Logs the stack of this process at once, and those of others in time. Ignored while that goes on."""
        if self._asked:
            return
        self._clear()
        faulthandler.dump_traceback(self._file)
        self._tell(Process("supervisor", os.getpid()))
        self._asked.extend(processes)
        self._begin(0.0)

    def turn(self, now: float, ours: Set[int]) -> None:
        """Goes on if it is time. `ours` are the processes that haven't been reaped: only their pids are their own."""
        if now < self.next_due:
            return
        if self._asked[0].pid not in ours:
            self._give_up("it has ended", now)
            return
        if self._size < 0:
            self._ask_next(now)
            return
        before, self._size = self._size, os.fstat(self._file).st_size
        self.next_due = now + POLL
        if self._size and self._size == before:
            self._tell(self._asked.popleft())
            self._begin(now)
        elif not self._size and now >= self._since + PATIENCE:
            why = _unable(self._asked[0].pid)  # it may have been about to stop when it was asked
            self._give_up(why or "it doesn't answer SIGUSR1, which the application may have changed", now)

    def _begin(self, now: float) -> None:
        self._size, self.next_due = -1, now if self._asked else float("inf")

    def _ask_next(self, now: float) -> None:
        self._clear()
        process = self._asked[0]
        why_not = _unable(process.pid)
        if why_not:
            self._give_up(why_not, now)
            return
        os.kill(process.pid, LOG_SIGNAL)
        self._since, self._size, self.next_due = now, 0, now + POLL

    def _give_up(self, why: str, now: float) -> None:
        process = self._asked.popleft()
        log.warning("no stack of %s, pid %d: %s", process.role, process.pid, why, extra=event("stack"))
        self._begin(now)

    def _tell(self, process: Process) -> None:
        text = os.pread(self._file, MOST_BYTES, 0).decode(errors="replace").strip("\0\n")
        # As a stack, which the log sets off below its line, or puts into a field of its own.
        record = log.makeRecord(
            log.name, logging.WARNING, __file__, 0, "stack of %s, pid %d", (process.role, process.pid), None,
            extra=event("stack"), sinfo=text,
        )  # fmt: skip
        log.handle(record)

    def _clear(self) -> None:
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)  # the position is everybody's: it goes with the open file


def _unable(pid: int) -> str:
    """Why a process can't write its stacks; one that handles the signal no more would die of it."""
    does = procfs.signals(pid)
    if does is None or does.state in "ZX":
        return "it has ended" if procfs.is_ours() else ""
    if does.state in "Tt":
        return "it is stopped"
    if not does.caught & _BIT:
        return "it doesn't handle SIGUSR1 any more: the application has changed that"
    if does.blocked & _BIT:
        return "it blocks SIGUSR1"
    return ""
