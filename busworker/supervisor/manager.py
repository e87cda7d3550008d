"""Talks to the service manager that has started this service, by the protocol of sd_notify(3), if there is one.

What it hears from us is decided in `notices`. All of it is sent by the supervisor's loop itself, so that `WATCHDOG=1`
says that this loop turns. No other process may send any: what names the manager's socket is taken from the environment
before the application is imported, and no descriptor of it is kept open.
"""

from __future__ import annotations

import logging
import re
import socket
from collections import deque
from collections.abc import MutableMapping
from typing import NamedTuple

from busworker.launch import MANAGER
from busworker.log_fields import event
from busworker.supervisor.notices import Facts, Notices

log = logging.getLogger("busworker.supervisor")

MOST_UNSENT = 32
_MICROSECONDS = re.compile("[1-9][0-9]{0,19}")  # 64 bits, as sd_watchdog_enabled(3) reads it


class Manager(NamedTuple):
    """Where a service manager listens, and within how many seconds it wants to hear from us; None: not regularly."""

    address: str
    watchdog: float | None

    @classmethod
    def taken(cls, environ: MutableMapping[str, str], pid: int) -> Manager | None:
        """The one that an environment names to the process `pid`, if any. The variables are gone from it then."""
        address, microseconds, watched = (environ.pop(name, "") for name in MANAGER)
        if not address.startswith(("/", "@")):
            if address:
                told = event("manager_lost")
                log.warning("NOTIFY_SOCKET is no Unix socket: %s; nothing is told to it", address, extra=told)
            return None
        meant = watched in ("", str(pid)) and _MICROSECONDS.fullmatch(microseconds)
        if address.startswith("@"):  # an abstract name (unix(7))
            address = "\0" + address[1:]
        return cls(address, int(microseconds) / 1_000_000 if meant else None)


class Reporting:
    """Tells it, if there is one. Never blocks: what it doesn't take now is tried again at the next turn."""

    def __init__(self, manager: Manager | None) -> None:
        self._address = None if manager is None else manager.address
        self._notices = Notices(None if manager is None else manager.watchdog)
        self._unsent: deque[str] = deque()
        self._told_trouble = False

    @property
    def wanted(self) -> bool:
        """Whether there is one."""
        return self._address is not None

    @property
    def next_due(self) -> float:
        """When `turn` is to be called at the latest; monotonic seconds."""
        return float("inf") if self._address is None else self._notices.next_due

    def reload(self, now: float) -> None:
        """SIGHUP has come."""
        self._tell(self._notices.reload(now))

    def turn(self, facts: Facts, now: float) -> None:
        """Tells what there is to tell."""
        self._tell(self._notices.due(facts, now))

    def leave(self) -> None:
        """The next program of this process tells on, and takes a while to start."""
        self._tell(self._notices.alive())

    def _tell(self, assignments: list[str]) -> None:
        if self._address is None:
            return
        if assignments and len(self._unsent) < MOST_UNSENT:
            self._unsent.append("\n".join(assignments))
        if not self._unsent:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            while self._unsent and self._sent(sock, self._address, self._unsent[0]):
                self._unsent.popleft()

    def _sent(self, sock: socket.socket, address: str, text: str) -> bool:
        """Whether that is over, sent or not to be had."""
        try:
            sock.sendto(text.encode(), socket.MSG_DONTWAIT, address)
        except BlockingIOError:
            return False
        except OSError as error:
            if not self._told_trouble:
                log.warning("the service manager can't be told anything: %s", error, extra=event("manager_lost"))
            self._told_trouble = True
            return True
        self._told_trouble = False
        return True
