"""Forking one child and, later, saying why it died. Runs in the supervisor, and after the fork in the child.

A child shares the supervisor's memory, so the application is imported once. It shares nothing else that could
tie it to the supervisor or to its siblings: no descriptor but a whitelist, no signal handler, no process
group.
"""

from __future__ import annotations

import gc
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, cast

import setproctitle

from busworker import fault_log, log_fields, logs
from busworker.ipc import stacks
from busworker.log_fields import event
from busworker.parent import die_with_parent
from busworker.supervisor.remains import VARIABLE

log = logging.getLogger("busworker.supervisor")

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage(2)
KEPT_IGNORED = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
"""Python ignores these from its start; so do children: writing to a closed socket is an error, no death."""


@dataclass(frozen=True, slots=True)
class Birth:
    """What a child is to become.

    Attributes:
        title: its process title.
        role: how its log lines name it.
        entry: "module:function", imported in the child; takes `job` and returns the exit code.
        job: what it is given; must not be a descriptor that isn't in `keep`.
        keep: descriptors it keeps besides 0, 1 and 2.
        runs_user_code: SIGINT raises KeyboardInterrupt, as programs expect, and what this child itself forks
            gets none of its descriptors.
        stacks: the file into which it writes its stacks on SIGUSR1.
        mark: of what it starts itself (`supervisor.remains`).
        output: where its standard output and error go; None: where ours go.
        outlives: it doesn't end with the supervisor.
    """

    title: str
    role: str
    entry: str
    job: object
    keep: tuple[int, ...] = ()
    runs_user_code: bool = False
    stacks: int | None = None
    mark: str = ""
    output: int | None = None
    outlives: bool = False


@dataclass(frozen=True, slots=True)
class Death:
    """How a process ended: by the signal of that name, or with that exit code.

    `rss` is the most bytes that it ever had resident, or a process that it waited for.
    """

    signal: str | None
    exit_code: int | None
    rss: int | None = None

    def __str__(self) -> str:
        return self.signal or f"exit code {self.exit_code}"


def death(status: int, rss: int | None = None) -> Death:
    """What a wait status says (waitpid(2)). Pure."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return Death(None, code, rss)
    try:
        return Death(signal.Signals(-code).name, None, rss)
    except ValueError:  # a real-time signal between SIGRTMIN and SIGRTMAX has no name
        return Death(f"SIG{-code}", None, rss)


def reaped(pid: int) -> Death | None:
    """How that child of ours ended; None while it lives.

    Only our own pids: the application's import may have forked.
    """
    try:
        done, status, usage = os.wait4(pid, os.WNOHANG)
    except ChildProcessError:  # the application's import left a thread that reaped it
        return Death(None, None)
    return death(status, usage.ru_maxrss * _MAXRSS_UNIT) if done else None


def freeze() -> None:
    """Takes what is imported so far out of garbage collection, which would unshare the children's memory."""
    gc.collect()
    gc.freeze()


def fork(birth: Birth, file: tuple[int, int] | None = None) -> int:
    """The pid of a new child, which runs its entry point and never returns from here.

    Args:
        birth: what the child is to become.
        file: (st_dev, st_ino) of a file every descriptor of which it keeps as well. A memory map has one of
            its own, which can't be asked for and is closed with the map: its number must not come to mean
            something else.

    Raises:
        OSError: the system has no room for a process; nothing has changed.

    Guarantees:
        Call it in the main thread only: the kernel sends the parent-death signal when the forking *thread*
        ends (PR_SET_PDEATHSIG(2const)). No signal meant for the child reaches the supervisor's wake-up
        descriptor.
    """
    _flush()
    parent = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _live(birth, parent, file)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def _live(birth: Birth, parent: int, file: tuple[int, int] | None) -> NoReturn:
    """The child's whole life: the stack above belongs to the supervisor and is never returned to."""
    code = 1
    try:
        _settle_in(birth, parent, file)
        code = _entry(birth.entry)(birth.job)
    except BaseException:
        log.critical("%s ends by an error of its own", birth.title, exc_info=True, extra=event("process_failed"))
    finally:
        fault_log.tell_rest()
        _flush()
        os._exit(code)


def _settle_in(birth: Birth, parent: int, file: tuple[int, int] | None) -> None:
    os.setpgid(0, 0)
    if not birth.outlives:
        die_with_parent(parent, signal.SIGKILL)
    _reset_signals(interruptible=birth.runs_user_code)
    if birth.output is not None:
        _write_into(birth.output)
    logs.let_go()
    kept = _close_others({0, 1, 2, *birth.keep, *_stacks(birth), logs.descriptor()}, file)
    if birth.runs_user_code:
        # What a handler forks must neither hold the pool's lock nor look like a living worker.
        hidden = [descriptor for descriptor in kept if descriptor != logs.descriptor()]
        os.register_at_fork(after_in_child=partial(_point_at_nothing, hidden))
        _mark(birth)
    for descriptor in _stacks(birth):
        stacks.take_part(descriptor)
    _point_at_nothing([0])
    setproctitle.setproctitle(birth.title)
    log_fields.set_role(birth.role)


def _write_into(output: int) -> None:
    """Standard output and error are that pipe from now on. Line by line: what waits in a buffer dies with us."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def _mark(birth: Birth) -> None:
    """Has all that this worker starts say so: in its environment; or in its title, where its memory is our copy."""
    mark = f"{birth.mark}.{os.getpid()}"
    os.environ[VARIABLE] = mark
    os.register_at_fork(
        after_in_child=partial(setproctitle.setproctitle, f"busworker: started by {birth.role} ({mark})")
    )


def _stacks(birth: Birth) -> tuple[int, ...]:
    return () if birth.stacks is None else (birth.stacks,)


def _reset_signals(*, interruptible: bool) -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number in KEPT_IGNORED:
            signal.signal(number, signal.SIG_IGN)
        elif signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_DFL)
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _close_others(keep: set[int], file: tuple[int, int] | None) -> list[int]:
    """Closes every descriptor but these, and returns what is left above 2.

    A copy of a sibling's link left open would hide that sibling's death.
    """
    kept: list[int] = []
    for descriptor in [int(entry.name) for entry in Path("/dev/fd").iterdir()]:
        identity = _identity(descriptor)
        if descriptor in keep or (file is not None and identity == file):
            kept.append(descriptor)
        elif identity is not None:  # the listing's own is closed by now
            os.close(descriptor)
    return [descriptor for descriptor in kept if descriptor > 2]


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _point_at_nothing(descriptors: Iterable[int]) -> None:
    """Replaces descriptors instead of closing them: a number used again would be closed by its old owner."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in descriptors:
        os.dup2(nothing, descriptor, inheritable=descriptor <= 2)
    os.close(nothing)


def _entry(name: str) -> Callable[[object], int]:
    module, _, function = name.partition(":")
    return cast("Callable[[object], int]", getattr(importlib.import_module(module), function))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, broken, or replaced by the application
            continue
