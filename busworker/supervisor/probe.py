"""A short-lived child that tries the broker at the start: the supervisor itself never imports one."""

from __future__ import annotations

import importlib
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from busworker.declaration import ServiceSpec
from busworker.errors import BrokerUnavailable, BusworkerError, ConfigurationError, TopologyMismatch
from busworker.supervisor import child
from busworker.supervisor.child import Birth

PATIENCE = 60.0
"""Seconds; opening a store may have to recover a large log first."""
FITTING, UNAVAILABLE, WRONG, MISMATCH = 0, 69, 78, 79
ERRORS: dict[int, type[BusworkerError]] = {
    UNAVAILABLE: BrokerUnavailable,
    WRONG: ConfigurationError,
    MISMATCH: TopologyMismatch,
}


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """What to call with the broker's URL and the service, as "module:function", and where to write what it raised."""

    entry: str
    url: str
    service: ServiceSpec | None
    answer: socket.socket


def probe(entry: str, url: str, service: ServiceSpec | None = None) -> None:
    """Calls `entry` with the URL and the service in a child, which may log.

    Raises:
        BrokerUnavailable, ConfigurationError, TopologyMismatch: as the entry point raised it.
            `BrokerUnavailable` also if it took longer than `PATIENCE` seconds or died.
    """
    ours, theirs = socket.socketpair()
    with ours:
        job = ProbeJob(entry, url, service, theirs)
        pid = child.fork(Birth("busworker: probe", "probe", f"{__name__}:main", job, (theirs.fileno(),)))
        theirs.close()
        text = _read(ours)
        if text is None:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    _judge(text, child.death(status))


def main(job: ProbeJob) -> int:
    """The child: 0, or the number of the error whose text it has written."""
    module, _, function = job.entry.partition(":")
    call = cast("Callable[[str, ServiceSpec | None], None]", getattr(importlib.import_module(module), function))
    try:
        call(job.url, job.service)
    except (BrokerUnavailable, ConfigurationError, TopologyMismatch) as error:
        job.answer.sendall(str(error).encode(errors="replace")[:4096])
        return next(code for code, kind in ERRORS.items() if isinstance(error, kind))
    return FITTING


def _read(sock: socket.socket) -> str | None:
    """All that the child writes until it ends; None: it takes too long."""
    sock.settimeout(PATIENCE)
    parts: list[bytes] = []
    try:
        while data := sock.recv(4096):
            parts.append(data)
    except TimeoutError:
        return None
    return b"".join(parts).decode(errors="replace")


def _judge(text: str | None, ended: child.Death) -> None:
    if text is None:
        raise BrokerUnavailable(f"the broker did not answer within {PATIENCE:g} s")
    kind = ERRORS.get(ended.exit_code or FITTING)
    if kind is not None:
        raise kind(text)
    if ended.exit_code != FITTING:
        raise BrokerUnavailable(f"the process that tried the broker ended with {ended}: see the log above")
