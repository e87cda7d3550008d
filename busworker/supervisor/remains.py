"""What handlers start, and who ends it when its worker has died: no process of theirs outlives the worker.

The supervisor is a subreaper (PR_SET_CHILD_SUBREAPER(2const)): what a dead worker leaves becomes its child, whatever
group, session or signal handling it has chosen. A child of ours can't be mistaken for another, since its pid isn't
used again before it is reaped. Three kinds of children aren't ours to end: our own, those that were there before the
first worker, and those that came while nobody had died, as orphans do that reach PID 1 of a container from outside.

A daemon, whose parents have left it, comes while its worker lives. Whose it is says the mark: a worker's environment
carries one, and so does the title of what it forks.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Set
from contextlib import suppress

from busworker import procfs
from busworker.procfs import Seen

log = logging.getLogger("busworker.supervisor")

VARIABLE = "BUSWORKER_STARTED_BY"
LOOK = 1.0
"""Seconds between two looks for daemons, and at most those that a stop waits for what it ends."""
ROUNDS_PAUSE = 0.002
NOBODY, THE_DEAD = 0, -1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def new_mark(key: str) -> str:
    """What marks the processes that workers of this supervisor start; `key` stands for the running service."""
    me = procfs.look(os.getpid())
    return f"{key}.{os.getpid()}.{me.started if me else 0}"


def pattern_of(mark: str) -> re.Pattern[bytes]:
    """Finds a mark; the group is the worker's pid."""
    return re.compile(re.escape(mark.encode()) + rb"\.(\d+)\b")


def pattern_of_key(key: str) -> re.Pattern[bytes]:
    """Finds the marks of any supervisor of that running service."""
    return re.compile(re.escape(key.encode()) + rb"\.\d+\.\d+\.\d+\b")


class Remains:
    """The children of this process that it hasn't forked.

    Args:
        mark: of what its workers start.
    """

    def __init__(self, mark: str) -> None:
        if sys.platform == "linux":
            _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # else orphans go to init, and are found by their marks
        self._pattern = pattern_of(mark)
        self._kept = procfs.children()
        self._ours: Set[int] = frozenset()
        self._started_by: dict[int, int] = {}
        self._killed: set[int] = set()
        self._due = 0.0

    def turn(self, now: float, ours: Set[int], *, child: bool) -> None:
        """Ends what the dead have left and reaps it. Never blocks.

        Args:
            now: monotonic seconds.
            ours: the pids of all children that this process has forked and not reaped.
            child: whether SIGCHLD has come since the last call.
        """
        died = not ours >= self._ours
        self._ours = ours
        if not died and not child and now < self._due:
            return
        self._due = now + LOOK
        self._rounds(died)

    def end_all(self, kept: Set[int] | None = None) -> None:
        """Ends what workers have started, when none of our own children is left; waits for up to `LOOK` seconds.

        Args:
            kept: if given, what was there before the first worker is ended too, except for these.
        """
        self._ours = frozenset()
        if kept is not None:
            self._kept &= kept
        until = time.monotonic() + LOOK
        self._rounds(died=True)
        while self._doomed() and time.monotonic() < until:
            time.sleep(ROUNDS_PAUSE)
            self._rounds(died=True)

    def _rounds(self, died: bool) -> None:
        """Looks until nobody was reaped: the children of whoever was are ours only now."""
        while gone := self._round(died):
            died = died or not gone.isdisjoint(self._killed)
            self._killed -= gone

    def _round(self, died: bool) -> set[int]:
        """Looks once and kills; those that were reaped. `died`: what is new was left by somebody who is dead."""
        found = procfs.children() - self._ours - self._kept
        gone = {pid for pid in found if reaped(pid)}
        found -= gone
        for pid in found - self._started_by.keys():
            self._started_by[pid] = self._origin(pid) or (THE_DEAD if died else NOBODY)
        self._started_by = {pid: by for pid, by in self._started_by.items() if pid in found}
        for pid in self._doomed():
            os.kill(pid, signal.SIGKILL)
            self._killed.add(pid)
        return gone

    def _doomed(self) -> list[int]:
        return [pid for pid, by in self._started_by.items() if by != NOBODY and by not in self._ours]

    def _origin(self, pid: int) -> int:
        """The pid of the worker that has started it; 0: it doesn't tell."""
        seen = procfs.look(pid)
        if seen is not None and seen.group in self._ours:
            return seen.group
        found = procfs.told(pid, self._pattern)
        return int(found[1]) if found else NOBODY


def end_leftovers(mine: Callable[[Seen], bool], patience: float) -> int:
    """Ends processes of which nobody is the parent any more who would; how many.

    Args:
        mine: whether a process is one of them. It is asked again when the process can't become another.
        patience: seconds at most, for those that go on to start others.
    """
    until, ended = time.monotonic() + patience, set[tuple[int, int]]()
    while True:
        found = [seen for seen in procfs.processes() if seen.pid != os.getpid() and mine(seen) and not _is_dead(seen)]
        for seen in found:
            _end(seen.pid, mine)
        ended |= {(seen.pid, seen.started) for seen in found}
        if not found or time.monotonic() >= until:
            return len(ended)
        time.sleep(ROUNDS_PAUSE)


def is_orphan(pid: int, service: str) -> bool:
    """Whether it is a consumer or worker of that service without a supervisor: it lets nothing end it."""
    if not re.match(rf"busworker: (consumer|worker) {re.escape(service)}\.", procfs.title(pid)):
        return False
    seen = procfs.look(pid)
    return seen is not None and not re.match(r"busworker: (supervisor|consumer|worker) ", procfs.title(seen.parent))


def _end(pid: int, mine: Callable[[Seen], bool]) -> None:
    with suppress(OSError):  # it has ended by itself, or is somebody else's
        held = os.pidfd_open(pid)
        try:
            seen = procfs.look(pid)
            if seen is not None and mine(seen):
                signal.pidfd_send_signal(held, signal.SIGKILL)
        finally:
            os.close(held)


def _is_dead(seen: Seen) -> bool:
    told = procfs.signals(seen.pid)
    return told is None or told.state in "ZX"


def reaped(pid: int) -> bool:
    """Whether that child has ended, and so is gone now."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:  # a thread that the application's import has left was quicker
        return True
