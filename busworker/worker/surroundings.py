"""What a handler may change of its process, and how the next message finds it as it was before the first.

What is cheap to put back is put back; for the rest the worker is replaced. Both happen after the outcome was sent, so
they hold up the next message only. What is compared, and what it costs, is in docs/decisions/0007-clean-workers.md.
"""

from __future__ import annotations

import concurrent.futures.thread
import faulthandler
import gc
import importlib
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias, cast

from busworker.parent import die_with_parent

SignalHandler: TypeAlias = Callable[[int, FrameType | None], object] | int | None

SIGNALS = tuple(number for number in range(1, 32) if number not in (signal.SIGKILL, signal.SIGSTOP))
LIMITS = tuple(
    getattr(resource, name)
    for name in ("RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CPU", "RLIMIT_FSIZE",
                 "RLIMIT_NPROC", "RLIMIT_CORE")
    if hasattr(resource, name)
)  # fmt: skip
TIMERS = (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
MORE_THREADS = 32
"""Threads beyond those at the start that libraries and thread pools may keep."""
# Those of the module signal make enums of all values, which takes up to twenty times as long.
_getsignal = cast("Callable[[int], SignalHandler]", importlib.import_module("_signal").getsignal)
_pthread_sigmask = cast("Callable[[int, tuple[()]], set[int]]", importlib.import_module("_signal").pthread_sigmask)


class Surroundings:
    """How the process is before its first message.

    Args:
        parent: the supervisor's pid.
        descriptors: those that this process can't do without.
        signals_changed: called after signal handlers were put back, for what Python's table doesn't show.
    """

    def __init__(self, parent: int, descriptors: Iterable[int], signals_changed: Callable[[], None]) -> None:
        self._parent = parent
        self._signals_changed = signals_changed
        self._handlers = list(map(_getsignal, SIGNALS))
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._timers = list(map(signal.getitimer, TIMERS))
        self._folder = str(Path.cwd())
        self._umask = _umask()
        self._environ = os.environ
        self._variables = dict(_variables(os.environ))
        self._limits = list(map(resource.getrlimit, LIMITS))
        self._ids = _ids()
        self._interpreter = _interpreter()
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._outputs = _identity(1), _identity(2)
        self._open = select.poll()
        for descriptor in descriptors:
            self._open.register(descriptor, 0)  # nothing but that it is no descriptor any more (POLLNVAL, poll(2))
        self._has_children = _has_children()
        self._threads = frozenset(threading.enumerate())

    def restore(self, *, thorough: bool) -> str | None:
        """Puts back what the last attempt changed; what can't be, as the reason to replace this process.

        Args:
            thorough: looks at what is seldom changed as well, which takes as long again. Without, that stays until
                the next thorough look.
        """
        try:
            self._put_back()
            if thorough:
                self._put_back_seldom()
        except (OSError, ValueError, TypeError) as error:
            return f"its handler left it changed, and that can't be undone ({error})"
        return self._left_over() or (self._changed_seldom() if thorough else None)

    def _put_back(self) -> None:
        if list(map(_getsignal, SIGNALS)) != self._handlers:
            self._restore_handlers()
        elif not faulthandler.is_enabled():
            self._signals_changed()
        if _pthread_sigmask(signal.SIG_BLOCK, ()) != self._mask:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        if _folder() != self._folder:
            os.chdir(self._folder)
        if _umask() != self._umask:
            os.umask(self._umask)
        if os.environ is not self._environ or _variables(os.environ) != self._variables:
            self._restore_environment()
        if list(map(resource.getrlimit, LIMITS)) != self._limits:
            self._restore_limits()

    def _put_back_seldom(self) -> None:
        if list(map(signal.getitimer, TIMERS)) != self._timers:
            self._stop_timers()
        if _interpreter() != self._interpreter:
            self._restore_interpreter()
        sys.stdin, sys.stdout, sys.stderr = self._streams
        die_with_parent(self._parent, signal.SIGKILL)

    def _left_over(self) -> str | None:
        if any(event & select.POLLNVAL for _, event in self._open.poll(0)):
            return "its handler closed descriptors"
        if not self._has_children and _has_children():
            return "its handler left a child process"
        if threading.active_count() > len(self._threads) and (thread := self._left_thread()) is not None:
            return f"its handler left the thread {thread.name!r}"
        return None

    def _changed_seldom(self) -> str | None:
        if _ids() != self._ids:
            return "its handler changed its user, group, process group or priority"
        if (_identity(1), _identity(2)) != self._outputs:
            return "its handler replaced its output"
        return None

    def _restore_handlers(self) -> None:
        for number, handler, now in zip(SIGNALS, self._handlers, map(_getsignal, SIGNALS), strict=True):
            if handler != now:
                signal.signal(number, cast("signal.Handlers", handler))
        self._signals_changed()

    def _stop_timers(self) -> None:
        for timer, was in zip(TIMERS, self._timers, strict=True):
            if not any(was):  # a profiler's, started before the first message, goes on
                signal.setitimer(timer, 0)

    def _restore_environment(self) -> None:
        os.environ = self._environ  # noqa: B003  the object that was there, in place of another
        now = _variables(os.environ)
        for name in [name for name in now if name not in self._variables]:
            os.unsetenv(name)
        for name, value in self._variables.items():
            if now.get(name) != value:
                os.putenv(name, value)
        now.clear()
        now.update(self._variables)
        time.tzset()

    def _restore_limits(self) -> None:
        for limit, values in zip(LIMITS, self._limits, strict=True):
            if resource.getrlimit(limit) != values:
                resource.setrlimit(limit, values)

    def _restore_interpreter(self) -> None:
        recursion, trace, profile, collects, timeout = self._interpreter
        sys.setrecursionlimit(recursion)
        sys.settrace(cast("Any", trace))
        sys.setprofile(cast("Any", profile))
        (gc.enable if collects else gc.disable)()
        socket.setdefaulttimeout(timeout)

    def _left_thread(self) -> threading.Thread | None:
        """A thread for which this process must be replaced.

        Daemon threads are mostly a library's (drivers, monitoring), and those of thread pools wait for the next
        task: a few of them stay, for else each message of such an application would cost a new process.
        """
        new = [thread for thread in threading.enumerate() if thread not in self._threads and thread.is_alive()]
        pools: object = getattr(concurrent.futures.thread, "_threads_queues", ())
        kept = [thread for thread in new if thread.daemon or thread in cast("Iterable[threading.Thread]", pools)]
        bad = [thread for thread in new if thread not in kept] or kept[MORE_THREADS:]
        return bad[0] if bad else None


def _umask() -> int:
    mask = os.umask(0o77)  # there is no other way to ask (umask(2))
    os.umask(mask)
    return mask


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  Path.cwd() takes four times as long
    except FileNotFoundError:  # it was removed
        return None


def _variables(environ: object) -> dict[bytes, bytes]:
    # The dict beneath: os.environ decodes each name and value anew, which takes sixty times as long.
    return cast("dict[bytes, bytes]", vars(environ)["_data"])


def _ids() -> tuple[int, ...]:
    return (os.geteuid(), os.getegid(), os.getpgrp(), os.getpriority(os.PRIO_PROCESS, 0))


def _interpreter() -> tuple[int, object, object, bool, float | None]:
    return sys.getrecursionlimit(), sys.gettrace(), sys.getprofile(), gc.isenabled(), socket.getdefaulttimeout()


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _has_children() -> bool:
    """Whether a child lives; those that have ended are reaped."""
    try:
        while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG):
            pass
    except ChildProcessError:
        return False
    return True
