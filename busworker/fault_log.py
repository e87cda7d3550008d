"""Loggers that count a fault which comes again and again, instead of repeating it.

A record takes part if it is a warning or worse and its `event` names a `fault`. It is done by a filter of these
loggers, not by a handler of ours, so that it holds in programs which only publish and log in their own way too.
"""

from __future__ import annotations

import atexit
import copy
import logging
import os
import threading
import time

from busworker import log_fields
from busworker.repeats import Again, Repeats

MOST_KIND = 500
"""Characters by which faults are told apart."""


def logger(name: str) -> logging.Logger:
    """The logger of that name, which counts from now on."""
    found = logging.getLogger(name)
    found.addFilter(_counting)
    return found


def tell() -> None:
    """Logs what was counted for long enough. A process without a loop that calls it logs that with its next fault."""
    if _counting.repeats.next_due <= time.monotonic():
        _counting.tell()


def tell_rest() -> None:
    """Logs all that was counted; for the end of a process that has no orderly exit of Python's."""
    _counting.tell_rest()


class _Counting(logging.Filter):
    """The filter, and what it has counted in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.repeats: Repeats[logging.LogRecord] = Repeats()
        self._lock = threading.RLock()  # a signal handler may log while its thread is in here

    def filter(self, record: logging.LogRecord) -> bool:
        told = log_fields.told(record)
        if record.levelno < logging.WARNING or "fault" not in told or "repeated" in told:
            return True
        tell()
        kind = f"{told['event']} {told.get('channel')} {told['fault']}"[:MOST_KIND]
        with self._lock:
            return self.repeats.seen(kind, record, time.monotonic())

    def tell(self) -> None:
        with self._lock:
            due = self.repeats.due(time.monotonic())
        _log(due)

    def tell_rest(self) -> None:
        with self._lock:
            rest = self.repeats.rest(time.monotonic())
        _log(rest)

    def forget(self) -> None:
        """What a parent has counted is the parent's to tell."""
        self.repeats, self._lock = Repeats(), threading.RLock()


def _log(counted: list[Again[logging.LogRecord]]) -> None:
    for times, seconds, latest in counted:
        record = copy.copy(latest)
        record.created = time.time()
        record.msg = f"{latest.getMessage()} (the last of {times} like it in {seconds:.0f} s)"
        record.args, record.exc_info = (), None
        log_fields.replace(record, repeated=times)
        logging.getLogger(record.name).handle(record)


_counting = _Counting()
atexit.register(tell_rest)
os.register_at_fork(after_in_child=_counting.forget)
