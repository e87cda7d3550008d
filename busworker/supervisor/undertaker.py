"""A process that waits for the death of the supervisor, to end what can't follow by itself.

The kernel ends consumers and workers with their supervisor. It doesn't end what handlers have started, nor a worker
whose handler has undone the parent-death signal, nor a child that was stopped before it could ask for that signal.
Whoever does that must outlive the supervisor, and must not be its
parent: the process that was started is the one that is supervised from outside. As PID 1 there is no need: with it the
kernel ends everything.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from busworker import procfs
from busworker.errors import ConfigurationError
from busworker.ipc.scoreboard import Scoreboard
from busworker.procfs import Seen
from busworker.supervisor import child, remains
from busworker.supervisor.child import Birth

PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class UndertakerJob:
    """What it needs to know.

    Attributes:
        alive: a pipe whose other end only the supervisor has, and for a moment each child that it forks.
        supervisor: its pidfd (pidfd_open(2)), where there are such.
        service: the service's name.
        mark: of what its workers start.
        session: the session of its processes.
        boards: the scoreboards, which say which processes were workers.
    """

    alive: int
    supervisor: int | None
    service: str
    mark: str
    session: int
    boards: Sequence[Path]


class Undertaker:
    """The supervisor's side: keeps one such process."""

    def __init__(self, service: str, mark: str, boards: Iterable[Path]) -> None:
        self._reading, self._writing = os.pipe()
        self._supervisor = _pidfd()
        self._job = UndertakerJob(self._reading, self._supervisor, service, mark, os.getsid(0), tuple(boards))
        self.pid: int | None = None

    def keep(self) -> None:
        """Starts it if there is none; call it again after `reap`."""
        if self.pid is None and os.getpid() != 1:
            title = f"busworker: undertaker {self._job.service}"
            entry = f"{__name__}:main"
            role = f"undertaker {self._job.service}"
            with suppress(OSError):  # no room for a process now: at the next turn, perhaps
                self.pid = child.fork(Birth(title, role, entry, self._job, self._watched, outlives=True))

    def reap(self) -> None:
        """Notes that it has died, if so."""
        if self.pid is not None and remains.reaped(self.pid):
            self.pid = None

    def close(self) -> None:
        """Ends it: the supervisor has ended everything itself."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = None
        for descriptor in (*self._watched, self._writing):
            os.close(descriptor)

    @property
    def _watched(self) -> tuple[int, ...]:
        return (self._reading,) if self._supervisor is None else (self._reading, self._supervisor)


def main(job: UndertakerJob) -> int:
    """The process: 0, when nothing is left."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError):  # the C library keeps some for itself
            signal.signal(number, signal.SIG_IGN)
    _wait_for_its_end(job)
    workers = _workers(job.boards)
    pattern = remains.pattern_of(job.mark)
    pipe = procfs.opened(os.getpid(), job.alive)

    def is_left(seen: Seen) -> bool:
        ours = seen.session == job.session and (seen.group in workers or procfs.holds(seen.pid, pipe))
        return ours or remains.is_orphan(seen.pid, job.service) or procfs.told(seen.pid, pattern) is not None

    remains.end_leftovers(is_left, PATIENCE)
    return 0


def _pidfd() -> int | None:
    """This process's; None where the system has no such thing."""
    if sys.platform == "linux":
        with suppress(OSError):
            return os.pidfd_open(os.getpid())
    return None


def _wait_for_its_end(job: UndertakerJob) -> None:
    poll = select.poll()
    for descriptor in (job.alive, job.supervisor):
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
    poll.poll()


def _workers(boards: Sequence[Path]) -> frozenset[int]:
    """The pids of the supervisor's last workers; each leads a process group."""
    pids: set[int] = set()
    for path in boards:
        with suppress(ConfigurationError, OSError):  # somebody has removed it
            path.stat()
            board = Scoreboard(path, 0)
            pids |= board.pids()
            board.close()
    return frozenset(pids)
