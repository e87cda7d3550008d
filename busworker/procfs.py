"""What /proc tells of processes (proc(5)). Where there is none, or another namespace's, it tells nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

PROC = "/proc"
"""No Path: pathlib interns the parts of paths, and Python's table of those grows with each pid looked at."""


class Seen(NamedTuple):
    """A process as its `stat` shows it."""

    pid: int
    parent: int
    group: int
    session: int
    started: int


class Signals(NamedTuple):
    """What a process does with signals: a bit for each, from 1. `state` is a letter; `T` is stopped."""

    state: str
    blocked: int
    caught: int


def is_ours() -> bool:
    """Whether the pids there are those of our own namespace, so that they may be sent signals."""
    try:
        return os.readlink(f"{PROC}/self") == str(os.getpid())  # noqa: PTH115  Path.readlink is slower
    except OSError:
        return False


def children() -> set[int]:
    """The children of this process, which has one thread; zombies and adopted ones too."""
    if not is_ours():
        return set()
    me = os.getpid()
    try:
        return {int(pid) for pid in _bytes(f"{PROC}/{me}/task/{me}/children").split()}
    except OSError:  # the kernel was built without CONFIG_PROC_CHILDREN
        return {seen.pid for seen in processes() if seen.parent == me}


def processes() -> Iterator[Seen]:
    """All that can be seen."""
    if is_ours():
        for name in os.listdir(PROC):  # noqa: PTH208  names are enough
            seen = look(int(name)) if name.isdigit() else None
            if seen is not None:
                yield seen


def look(pid: int) -> Seen | None:
    """That process; None if it isn't there."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()  # its name may hold spaces and brackets
    if len(fields) < 20:
        return None
    return Seen(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def title(pid: int) -> str:
    """Its process title, or its arguments; empty if it isn't there, or is a zombie."""
    return _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def told(pid: int, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
    """The first match in what it was started with: its title and arguments, then its environment."""
    return pattern.search(_read(pid, "cmdline")) or pattern.search(_read(pid, "environ"))


def signals(pid: int) -> Signals | None:
    """What it does with signals; None if it isn't there."""
    lines = dict(line.split(b":\t", 1) for line in _read(pid, "status").splitlines() if b":\t" in line)
    try:
        blocked, caught = (int(lines[name], 16) for name in (b"SigBlk", b"SigCgt"))
        return Signals(lines[b"State"][:1].decode(), blocked, caught)
    except (KeyError, ValueError):
        return None


def opened(pid: int, descriptor: int | str) -> str:
    """What that descriptor of it is, as `pipe:[4711]`; empty if it isn't there, or none of our business."""
    try:
        return os.readlink(f"{PROC}/{pid}/fd/{descriptor}")  # noqa: PTH115  no path
    except OSError:
        return ""


def holds(pid: int, what: str) -> bool:
    """Whether one of its descriptors is that, as `opened` has it."""
    try:
        descriptors = os.listdir(f"{PROC}/{pid}/fd")  # noqa: PTH208  names are enough
    except OSError:
        return False
    return what != "" and any(opened(pid, descriptor) == what for descriptor in descriptors)


def _read(pid: int, name: str) -> bytes:
    try:
        return _bytes(f"{PROC}/{pid}/{name}")
    except OSError:
        return b""


def _bytes(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  see PROC
        return file.read()
