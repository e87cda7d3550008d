"""The process that answers HTTP, as the supervisor keeps it: forked, watched, started again, killed at the end.

The supervisor holds the listening socket. So nobody takes the address while that process is away, whoever connects
meanwhile waits, and whether the address can be had is known before anything is forked.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

from busworker.addresses import Address
from busworker.errors import ConfigurationError
from busworker.ipc import control
from busworker.log_fields import event
from busworker.supervisor import child
from busworker.supervisor.births import http_birth
from busworker.supervisor.dumps import Process
from busworker.supervisor.orders import Orders
from busworker.supervisor.state import STEADY, Backoff

log = logging.getLogger("busworker.supervisor")

BACKLOG = 128
TRY_AGAIN = 5.0
"""Seconds until an address that can't be had is tried again."""


def listen(address: Address) -> socket.socket:
    """A socket that listens there.

    Raises:
        ConfigurationError: it can't be made: somebody else listens there, or this machine has no such address.
    """
    try:
        return _unix(Path(address.path)) if address.path else _tcp(address)
    except UnicodeError as error:  # of the codec idna, which getaddrinfo uses
        raise ConfigurationError(
            f"--http: {address} can't be used: {address.host!r} names no host; give another"
        ) from error
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and not isinstance(error, socket.gaierror) else error.strerror
        raise ConfigurationError(
            f"--http: {address} can't be used: {why}; end what uses it, or give another"
        ) from error


def _tcp(address: Address) -> socket.socket:
    if not address.host and socket.has_dualstack_ipv6():
        return socket.create_server(("", address.port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
    flags = socket.AI_PASSIVE
    found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=flags)
    family, _, _, _, where = found[0]
    return socket.create_server(where[:2], family=family, backlog=BACKLOG)


def _unix(path: Path) -> socket.socket:
    if path.is_socket() and control.listener(path) is None:  # a killed supervisor has left it
        path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class Web:
    """Keeps one such process, if HTTP is wanted at all.

    Attributes:
        pid: the process, while there is one.
    """

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._listener = None if orders.http is None else orders.http.listener
        self._backoff = Backoff()
        self._started_at = 0.0
        self._listen_at = 0.0
        self.pid: int | None = None

    @property
    def next_due(self) -> float:
        """When to call `turn` at the latest; monotonic seconds."""
        if self._orders.http is None or self.pid is not None:
            return float("inf")
        return self._backoff.until if self._listener is not None else self._listen_at

    @property
    def processes(self) -> list[Process]:
        """It, if it hasn't been reaped."""
        return [] if self.pid is None else [Process(f"http {self._orders.service.name}", self.pid)]

    def turn(self, now: float) -> None:
        """Notes its death, and starts it where it is missing and due."""
        if self.pid is not None and (ended := child.reaped(self.pid)) is not None:
            if now - self._started_at >= STEADY:
                self._backoff.worked()
            self._backoff.failed(now)
            delay = max(0.0, self._backoff.until - now)
            told = event("http_died", reason=str(ended))
            log.warning(
                "the http process died, pid %d: %s; it starts again in %.1f s", self.pid, ended, delay, extra=told
            )
            self.pid = None
        if self._orders.http is not None and now >= self.next_due:
            self._start(self._orders.http.address, self._orders.http.main, now)

    def _start(self, address: Address, main: str, now: float) -> None:
        try:
            if self._listener is None:
                self._listener = listen(address)
            self.pid = child.fork(http_birth(self._orders, main, self._listener))
        except ConfigurationError as error:
            if not self._listen_at:
                text = "metrics and probes aren't served: %s; trying again every %g s"
                log.error(text, error, TRY_AGAIN, extra=event("http_failed"))
            self._listen_at = now + TRY_AGAIN
        except OSError as error:
            log.error("the http process can't be started: %s", error, extra=event("http_failed"))
            self._backoff.failed(now)
        else:
            self._started_at, self._listen_at = now, 0.0
            at = _bound(self._listener, address)
            log.info("metrics and probes at %s, pid %d", at, self.pid, extra=event("http_started"))

    def close(self) -> None:
        """Ends it, at once, and gives the address up."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = None
        if self._listener is not None:
            if self._orders.http is not None and self._orders.http.address.path:
                with suppress(OSError):  # somebody has removed it
                    Path(self._orders.http.address.path).unlink()
            self._listener.close()


def _bound(listener: socket.socket, address: Address) -> Address:
    """The address with the port that the system has chosen, where 0 was wanted."""
    return address if address.path else address._replace(port=listener.getsockname()[1])
