"""Looking at processes from outside: which live, which belong to a test, which role each has by its title."""

import contextlib
import os
import re
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psutil

from tests.support.home import MARKER

TITLE = re.compile(r"busworker: (?P<role>supervisor|consumer|worker|http)(?: (?P<subject>\S+))?")
GONE = (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError, PermissionError)


@dataclass(frozen=True)
class Member:
    """One living process of a service, as its title showed it."""

    pid: int
    ppid: int
    role: str  # supervisor, consumer, worker; other for what has no title of ours
    subject: str  # email, email.welcome, email.welcome/1; empty for others
    title: str


def alive(pid: int) -> bool:
    """Whether that process runs; a zombie, which an idle init may keep for ever, does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def members(sessions: Iterable[int], marker: str | None = None) -> list[Member]:
    """The living processes of these sessions, and those whose environment carries the marker.

    A process that set its title has overwritten its environment (setproctitle uses that memory). So ours are
    found by the session, and by the marker what a handler started in a session of its own.
    """
    wanted = frozenset(sessions)
    return [member for process in psutil.process_iter() for member in _seen(process, wanted, marker)]


def kill(those: Iterable[Member]) -> None:
    """SIGKILL for each that is still there."""
    for member in those:
        with contextlib.suppress(*GONE):
            os.kill(member.pid, signal.SIGKILL)


def _seen(process: psutil.Process, sessions: frozenset[int], marker: str | None) -> Iterator[Member]:
    with contextlib.suppress(*GONE):
        if not _belongs(process, sessions, marker) or process.status() == psutil.STATUS_ZOMBIE:
            return
        title = " ".join(process.cmdline()).strip()
        match = TITLE.match(title)
        role, subject = (match["role"], match["subject"] or "") if match else ("other", "")
        yield Member(process.pid, process.ppid(), role, subject, title)


def _belongs(process: psutil.Process, sessions: frozenset[int], marker: str | None) -> bool:
    if os.getsid(process.pid) in sessions:
        return True
    return marker is not None and process.environ().get(MARKER) == marker
