"""The supervisor's signals: a handler does nothing but wake the loop, which reads what has come and decides.

The number itself goes through a socket pair that the interpreter's C handler writes to
(signal.set_wakeup_fd), so nothing of ours runs at an arbitrary point of the loop.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from types import FrameType

log = logging.getLogger("busworker.supervisor")

CUT_SHORT = 75
WATCHED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGCHLD,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGHUP,
    signal.SIGUSR1,
)


def until_started() -> None:
    """Has this process obey its signals until `Signals` does: there is nothing to drain yet, so it ends at once.

    Their default actions wouldn't do: TERM would be no orderly end, and none at all for PID 1; HUP and USR1 would end
    it, TTIN and TTOU stop it. They may be blocked so far: a new start of the same process has them wait.
    """
    for number in WATCHED:
        if number != signal.SIGCHLD:
            signal.signal(number, _too_early)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)


def block() -> None:
    """Has all signals wait for `until_started` in the next program of this process, where handlers are gone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)


class Signals:
    """The signals that arrive while it is open. One per process, in the main thread."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        # A full pair loses numbers, but SIGCHLD only says "look", and it holds thousands.
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in WATCHED:
            signal.signal(number, _wake)

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._reader.fileno()

    def read(self) -> list[int]:
        """The numbers that have come, oldest first. Never blocks."""
        try:
            return list(self._reader.recv(4096))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Reads no more. The handlers stay: a late TERM must not replace the exit code of a stop."""
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()


def _too_early(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    if number not in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        log.info("%s is ignored while the service starts", name)
        return
    log.info("%s: stopped before the service had started", name)
    os._exit(CUT_SHORT if number == signal.SIGQUIT else 0)


def _wake(number: int, frame: FrameType | None) -> None:
    """Nothing: that there is a handler makes the interpreter write the number to the wake-up descriptor."""
