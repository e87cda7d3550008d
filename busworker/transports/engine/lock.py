"""The lock on which the writers of a store queue, before SQLite's own.

SQLite's waiters sleep up to 100 ms between two tries, so that one of eight processes waited up to 630 ms; behind this
lock it was 25 ms. It is a POSIX lock (fcntl(2), F_SETLK), because a flock or an OFD lock is inherited by a fork. Two
rules follow: it excludes only processes, so a thread lock goes before it; and it is lost when *any* descriptor of the
file is closed, so a process has one descriptor for a store, which it never closes.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from busworker.errors import BrokerUnavailable
from busworker.transports.engine import folder

PATIENCE = 5.0
"""Seconds after which a writer gives up: somebody was stopped inside a transaction, or the disk hangs."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.000_1, 0.001


class WriteLock:
    """One store's lock in this process; get it from `of`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._threads = threading.Lock()

    def __enter__(self) -> None:
        """Waits for the lock, at most `PATIENCE` seconds.

        Raises:
            BrokerUnavailable: it didn't get it.
            OSError: the file can't be opened.
        """
        deadline = time.monotonic() + PATIENCE
        if not self._threads.acquire(timeout=PATIENCE):
            raise self._busy()
        try:
            self._lock_file(deadline)
        except BaseException:
            self._threads.release()
            raise

    def __exit__(self, *_: object) -> None:
        """Lets the next one in."""
        if self._descriptor is not None:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        self._threads.release()

    def hold_over_fork(self) -> bool:
        """Before a fork: waits until no thread is in a transaction, at most `PATIENCE` seconds; whether it did.

        SQLite keeps its own locks in tables of the process: a child forked in the middle of a transaction would
        inherit them held for ever (https://www.sqlite.org/howtocorrupt.html, section 2.6).
        """
        return self._threads.acquire(timeout=PATIENCE)

    def release_after_fork(self) -> None:
        """In the parent: lets its threads go on."""
        self._threads.release()

    def renew_after_fork(self) -> None:
        """In a forked child: nothing is held, and descriptor numbers may get another meaning."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
        self._threads = threading.Lock()

    def _lock_file(self, deadline: float) -> None:
        if self._descriptor is None:
            self._descriptor = folder.open_file(self._path)
        pause = _FIRST_PAUSE
        while not _try(self._descriptor):
            # F_SETLKW would be fairer, but a wait in it can't be bounded; SQLite polls too where it has time-outs.
            if time.monotonic() > deadline:
                raise self._busy()
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _busy(self) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"store {self._path.parent} is busy: a process has held its lock for {PATIENCE:g} s; look for one that is "
            "stopped, or a disk that hangs"
        )


class InUse:
    """Held by a thread while it uses a connection to read, or closes it: a fork waits for its end.

    A child forked within would find locks of SQLite's own held for ever. Take the write lock before, not within; the
    same thread may take this one again.
    """

    def __init__(self) -> None:
        self._threads = threading.RLock()
        with _registry:
            _uses.add(self)

    def __enter__(self) -> None:
        self._threads.acquire()

    def __exit__(self, *_: object) -> None:
        self._threads.release()

    def hold_over_fork(self) -> bool:
        """Before a fork: waits until the connection isn't used, at most `PATIENCE` seconds; whether it did."""
        return self._threads.acquire(timeout=PATIENCE)

    def release_after_fork(self) -> None:
        """In the parent: lets its threads go on."""
        self._threads.release()

    def renew_after_fork(self) -> None:
        """In a forked child: nobody uses it."""
        self._threads = threading.RLock()


def of(path: Path) -> WriteLock:
    """The lock of the store whose lock file this is: the same object for every connection of the process."""
    with _registry:
        return _locks.setdefault(path.parent.resolve() / path.name, WriteLock(path))


def _try(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _hold_over_fork() -> None:
    # In the order in which writers take them. Each kind is listed when no other can come: to make one takes the
    # registry, and to open a connection the write lock.
    if _registry.acquire(timeout=PATIENCE):
        _held_registry.append(_registry)
    _hold(list(_locks.values()))
    _hold(list(_uses))


def _hold(those: Sequence[WriteLock | InUse]) -> None:
    _held.extend([lock for lock in those if lock.hold_over_fork()])


def _release_after_fork() -> None:
    while _held:
        _held.pop().release_after_fork()
    while _held_registry:
        _held_registry.pop().release()


def _renew_after_fork() -> None:
    global _registry  # noqa: PLW0603  a lock that another thread held at the fork is never released in the child
    _registry = threading.Lock()
    _held_registry.clear()
    _held.clear()
    everything: list[WriteLock | InUse] = [*_locks.values(), *_uses]
    for held in everything:
        held.renew_after_fork()


_locks: dict[Path, WriteLock] = {}
_uses: weakref.WeakSet[InUse] = weakref.WeakSet()
_held: list[WriteLock | InUse] = []
_held_registry: list[threading.Lock] = []
"""The locks held over the fork that is under way."""
_registry = threading.Lock()
os.register_at_fork(before=_hold_over_fork, after_in_parent=_release_after_fork, after_in_child=_renew_after_fork)
