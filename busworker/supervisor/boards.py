"""A service's scoreboards: opened before any fork, with what a killed tree left there; read when a pool has died."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from pathlib import Path

from busworker.errors import ConfigurationError
from busworker.ipc.scoreboard import Scoreboard, charge_open
from busworker.log_fields import event
from busworker.supervisor.orders import Board
from busworker.supervisor.state import Pool

log = logging.getLogger("busworker.supervisor")

PATIENCE = 5.0
"""Seconds for the processes of a killed predecessor to go; they are ended by the kernel, so it is quick."""
PAUSE = 0.02


def open_board(path: Path, slots: int) -> Board:
    """A pool's scoreboard: locked, empty, its counters at 0; what it said is written down as owed.

    Args:
        path: its file, made if it isn't there.
        slots: for how many workers.

    Raises:
        ConfigurationError: it can't be made, what it said can't be written down, or processes of that pool
            still live.

    Guarantees:
        The lock is taken before any fork, so each process of the pool holds it, and whoever gets it knows
        that none is left. An attempt that was open is in the `Owed` file before its entry is wiped.
    """
    scoreboard = Scoreboard(path, slots)
    descriptor = _locked(path)
    end = "the service was killed" if scoreboard.of_this_boot else "the machine went down"
    try:
        charged = charge_open(scoreboard)
    except OSError as error:
        scoreboard.close()
        os.close(descriptor)
        raise ConfigurationError(
            f"what {path} owes can't be written down ({error.strerror}): make room or make its folder writable"
        ) from error
    scoreboard.reset_counts()
    if charged:
        told = event("attempts_charged")
        log.warning("%s: %d messages were executing or unsettled when %s", path, charged, end, extra=told)
    found = os.fstat(descriptor)
    return Board(scoreboard, descriptor, (found.st_dev, found.st_ino))


def read_dead_board(name: str, pool: Pool, board: Scoreboard, *, stopping: bool) -> None:
    """Writes down what a dead pool owes, then empties its scoreboard; the counters stay.

    On a full disk the pool waits, for its next consumer must know. A service that stops leaves the scoreboard to its
    successor.

    Args:
        name: the pool's, for the log.
        pool: its state, in which it is recorded.
        board: its scoreboard.
        stopping: whether the service stops.
    """
    for slot, number in pool.spared:
        board.spare(slot, number)
    try:
        charged = charge_open(board)
    except OSError as error:
        _not_written_down(name, pool, error, stopping=stopping)
        return
    pool.board_read()
    if charged:
        text = "%s: %d messages were executing or not settled; each is charged an attempt"
        log.warning(text, name, charged, extra=event("attempts_charged", channel=pool.name))


def _not_written_down(name: str, pool: Pool, error: OSError, *, stopping: bool) -> None:
    if stopping:
        pool.board_read()
        return
    if not pool.read_at:
        told = event("board_unwritable", channel=pool.name)
        log.error("%s: what it owes can't be written down, no consumer starts before: %s", name, error, extra=told)
    pool.board_not_read(time.monotonic())


def _locked(path: Path) -> int:
    """A descriptor that holds the pool's lock.

    It is opened for that alone: a memory map keeps the open file it was made from, lock and all, even after every
    descriptor is closed (mmap(2), flock(2)). So what a handler forks would hold a lock taken through the
    scoreboard's own descriptor for as long as it lives.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    until = time.monotonic() + PATIENCE
    while not _try_lock(descriptor):
        if time.monotonic() >= until:
            os.close(descriptor)
            raise ConfigurationError(
                f"processes of an earlier run still hold {path}: find them with `fuser {path}` and end them"
            )
        time.sleep(PAUSE)
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
