"""Watching what a pool's workers have resident, and asking the kernel whether its OOM killer has struck."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from busworker.ipc.scoreboard import Scoreboard
from busworker.supervisor.state import Worker

if TYPE_CHECKING:
    import psutil

LOOK = 0.2
"""Seconds between two looks at a worker that executes."""


class MemoryWatch:
    """Looks at the workers of a pool that has a memory limit, while they execute.

    A worker that executed nothing since the last look is marked as unwatched; it says so when it begins again. So an
    idle pool costs nothing, and nobody sends anything while messages follow each other.

    Args:
        board: the pool's scoreboard.
        limit: the pool's memory limit; None: nothing is watched.
    """

    def __init__(self, board: Scoreboard, limit: int | None) -> None:
        self._board = board
        self._limit = limit
        self._processes: dict[int, psutil.Process] = {}
        self._seen: dict[int, float] = {}
        self._next = 0.0
        if limit is not None:
            importlib.import_module("psutil")  # once, before the forks: 30 ms

    @property
    def busy(self) -> bool:
        """Whether the next look is due in `LOOK` seconds."""
        return bool(self._seen)

    def added(self, slot: int, pid: int) -> None:
        """A new worker is watched from now on."""
        if self._limit is not None:
            import psutil

            self._processes[slot] = psutil.Process(pid)
            self._seen[slot] = 0.0

    def removed(self, slot: int) -> None:
        """The worker is gone."""
        self._processes.pop(slot, None)
        self._seen.pop(slot, None)

    def begun(self, slot: int) -> None:
        """The worker begins a message after a pause."""
        if slot in self._processes:
            self._board.write_unwatched(slot, False)
            self._seen[slot] = 0.0

    def look(self, workers: dict[int, Worker], now: float) -> None:
        """Notes in each watched worker what it has resident; at most every `LOOK` / 2 seconds."""
        if not self._seen or now < self._next:
            return
        self._next = now + LOOK / 2
        for slot, seen in list(self._seen.items()):
            self._look_at(workers[slot], seen)

    def _look_at(self, worker: Worker, seen: float) -> None:
        slot, begun = worker.slot, self._board.begun(worker.slot)
        if worker.dumped_at is not None:
            return  # it dies, and what it had when that was decided is what counts
        if worker.number:
            worker.rss = self._resident(slot)
            self._board.write_rss(slot, worker.rss)
        elif begun == seen and worker.started:
            self._board.write_unwatched(slot, True)
            if not self._board.number(slot):  # it may have begun just before it could see the mark
                del self._seen[slot]
                return
            self._board.write_unwatched(slot, False)
        self._seen[slot] = begun

    def _resident(self, slot: int) -> int:
        import psutil

        try:
            return int(self._processes[slot].memory_info().rss)
        except psutil.Error:  # it has just died
            return 0


class OomKills:
    """Counts what the kernel's OOM killer ended in our control group, or on this machine where that isn't told.

    The kernel counts before it sends the SIGKILL (mm/oom_kill.c), so a death that it caused finds the count raised.
    """

    def __init__(self, counter: Path | None = None) -> None:
        self._counter = _counter() if counter is None else counter
        self._told = self._read()

    def took_one(self) -> bool:
        """Whether it has ended a process that no earlier call has told of."""
        found = self._told < self._read()
        self._told += found
        return found

    def _read(self) -> int:
        """The number on the line `oom_kill N`, in all three kinds of files; 0 where there is none."""
        try:
            lines = self._counter.read_text().splitlines()
        except OSError:
            return 0
        counts = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
        return int(counts[0]) if counts else 0


def _counter() -> Path:
    """The file that counts: of control groups v2 or v1 (Documentation/admin-guide/cgroup-v2.rst), or the machine's."""
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        groups = []
    root = Path("/sys/fs/cgroup")
    for _, controllers, path in groups:
        inside = path.lstrip("/")
        if "memory" in controllers.split(","):
            found = root / "memory" / inside / "memory.oom_control"
        elif not controllers:
            found = root / inside / "memory.events"
        else:
            continue
        if found.exists():
            return found
    return Path("/proc/vmstat")
