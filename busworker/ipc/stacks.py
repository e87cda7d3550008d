"""The file in which a worker leaves its Python stacks: the supervisor holds it, the worker's faulthandler writes it.

It has no name, so nothing is left behind. What a signal handler in C writes there needs neither the interpreter's lock
nor memory, so it works in a process that is broken or hangs in C code.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile

LOG_SIGNAL = signal.SIGUSR1
"""Makes any process of ours write its stacks, for the log, and go on."""
DUMP_SIGNAL: int = getattr(signal, "SIGRTMAX", signal.SIGUSR2)
"""Makes a worker write its stacks and die. A real-time signal, because programs use the others themselves.

It must not only write: the signal ends a sleep or a read of C code (EINTR, signal(7)), and a handler that hung would
seem to succeed.
"""
DUMP_SIGNAL_NAME = signal.Signals(DUMP_SIGNAL).name
MOST_BYTES = 64 * 1024
"""As much as is read: faulthandler writes up to 100 threads of up to 100 frames."""


def new_file() -> int:
    """A descriptor of a new, empty file; close-on-exec."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("busworker-stacks")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write_into(descriptor: int) -> None:
    """From now on this process writes the stacks of all its threads there when it crashes, and at `DUMP_SIGNAL`."""
    faulthandler.disable()  # else what is enabled already isn't set again, whatever a handler made of the signals
    faulthandler.enable(descriptor, all_threads=True)
    faulthandler.unregister(DUMP_SIGNAL)
    faulthandler.register(DUMP_SIGNAL, descriptor, all_threads=True, chain=True)  # what follows is the default: death


def take_part(descriptor: int) -> None:
    """From now on this process writes its stacks there at `LOG_SIGNAL`."""
    faulthandler.unregister(LOG_SIGNAL)
    faulthandler.register(LOG_SIGNAL, descriptor, all_threads=True)


def clear(descriptor: int) -> None:
    """Empties the file; the next stacks begin at its start, since both processes share one position."""
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)


def read(descriptor: int) -> str | None:
    """What was written; None: nothing."""
    return os.pread(descriptor, MOST_BYTES, 0).decode("utf-8", "replace").strip("\0\n") or None
