"""What an application's import left open that doesn't survive a fork: threads and sockets."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Container
from pathlib import Path

from busworker.log_fields import event

log = logging.getLogger("busworker.supervisor")

_TEXT = "importing the application {}, which workers won't have: %s"


def warn_of_leftovers(own: Container[int]) -> None:
    """Names the threads and sockets that are there, before the supervisor opens its own; `own` are some that it has.

    A fork copies no thread, so what one held stays locked in the child; a socket would be closed in it.
    """
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if threads:
        log.warning(_TEXT.format("started threads"), ", ".join(threads), extra=event("import_left"))
    sockets = _sockets(own)
    if sockets:
        log.warning(_TEXT.format("opened sockets"), ", ".join(sockets), extra=event("import_left"))


def _sockets(own: Container[int]) -> list[str]:
    """Sockets that this process made; an inherited one, as from systemd, is inheritable still (PEP 446)."""
    made = [descriptor for descriptor in _descriptors() if descriptor not in own and _is_own_socket(descriptor)]
    return [_name(descriptor) for descriptor in made]


def _descriptors() -> list[int]:
    return sorted(int(entry.name) for entry in Path("/dev/fd").iterdir())


def _is_own_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode) and not os.get_inheritable(descriptor)
    except OSError:  # the listing's own
        return False


def _name(descriptor: int) -> str:
    import psutil  # 30 ms that a start without leftovers needn't pay

    for connection in psutil.Process().net_connections(kind="all"):
        if connection.fd == descriptor and connection.raddr:
            return f"{descriptor} to {connection.raddr}"
    return str(descriptor)
