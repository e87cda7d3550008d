"""Log lines on stderr: text for people or JSON for machines, one write a record, alike in every process.

Modules log to `logging.getLogger("busworker.<part>")`. Every line names the process by its role, which a
child sets after its fork. Passwords in URLs are hidden and control characters escaped here, for all callers.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import stat
from collections.abc import Callable
from contextlib import suppress

from busworker import log_fields
from busworker.moments import rfc3339
from busworker.plain import escaped, escaped_lines
from busworker.urls import hide_password

STDERR = 2
PATIENCE = 0.1
"""Seconds that a line waits for a reader that doesn't read; the next ones don't wait until it reads again."""
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_SHORT = {"WARNING": "WARN", "CRITICAL": "FATAL"}

_sink: Sink | None = None


def setup(level: str, format: str, role: str) -> None:
    """Sends the logs of this process, and of those it forks, to stderr.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        format: `text` or `json`.
        role: which process this is, as in `supervisor email`.

    Guarantees:
        Calling it again replaces what it did before. The application's own logging is left alone where it has
        set one up; else it goes the same way.
    """
    _renew_sink()
    log_fields.set_role(role)
    handler = _Stderr()
    handler.setFormatter(_Json() if format == "json" else _Text())
    ours, root = logging.getLogger("busworker"), logging.getLogger()
    _install(ours, handler, LEVELS[level])
    ours.propagate = False
    if all(isinstance(found, _Stderr) for found in root.handlers):
        _install(root, handler, LEVELS[level])


def repeat(role: str, line: str) -> None:
    """Logs what another process has written to its standard streams, whatever the level is."""
    logger = logging.getLogger("busworker.output")
    told = log_fields.event("output", role=role)
    logger.handle(logger.makeRecord(logger.name, logging.INFO, "", 0, "%s", (line,), None, extra=told))


def descriptor() -> int:
    """Where log lines go: a process must keep it open."""
    return _the_sink().descriptor


def _the_sink() -> Sink:
    return _sink if _sink is not None else _renew_sink()


def _renew_sink() -> Sink:
    global _sink  # noqa: PLW0603  one log a process
    if _sink is not None:
        os.close(_sink.descriptor)
    _sink = Sink()
    return _sink


def reclaim() -> None:
    """Undoes `logging.config.dictConfig` switching off our loggers (`disable_existing_loggers`)."""
    for name, logger in logging.Logger.manager.loggerDict.items():
        if name.partition(".")[0] == "busworker" and isinstance(logger, logging.Logger):
            logger.disabled = False


def let_go() -> None:
    """Has the application's own log handlers open their files and sockets anew; for a child, before it closes those.

    What they hold would be closed under them, and the number of a descriptor soon means something else.
    """
    for logger in [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]:
        for handler in logger.handlers if isinstance(logger, logging.Logger) else ():
            if isinstance(handler, logging.FileHandler) and handler.stream is not None:
                handler.mode = "a"  # not to empty it
                _let_go(handler, "stream")  # as it is with `delay`
            for name in ("socket", "sock"):  # those of logging.handlers, whose import takes time
                if isinstance(getattr(handler, name, None), socket.socket):
                    _let_go(handler, name)


def _let_go(handler: logging.Handler, name: str) -> None:
    with suppress(OSError):  # a full disk, say; it is our copy alone that is closed
        getattr(handler, name).close()
    setattr(handler, name, None)


def _install(logger: logging.Logger, handler: logging.Handler, level: int) -> None:
    for found in [found for found in logger.handlers if isinstance(found, _Stderr)]:
        logger.removeHandler(found)
    logger.addHandler(handler)
    logger.setLevel(level)


class Sink:
    """The standard error stream as it was at the beginning, written to without ever waiting long for its reader.

    A descriptor of its own, so that not to block concerns nobody else's writing, and what becomes of number 2 later
    doesn't concern the log. A reader that doesn't read for `PATIENCE` seconds loses lines, and is told how many.
    """

    def __init__(self) -> None:
        self.descriptor = _reopened(STDERR)
        self._is_socket = _is(stat.S_ISSOCK, STDERR)
        self._dropped = 0
        self._torn = False

    def write(self, line: bytes) -> None:
        """One line at once, so that those of several processes don't mix; lost if nobody reads."""
        told = f"{self._dropped} log lines were lost: nobody read them\n".encode() if self._dropped else b""
        data = (b"\n" if self._torn else b"") + told + line
        patience = 0.0 if self._dropped else PATIENCE
        sent = 0
        try:
            while sent < len(data):
                sent += self._send(data[sent:], patience)
        except BlockingIOError:
            self._torn = self._torn if sent == 0 else True
            self._dropped += 1
        except OSError:
            pass  # closed or full: a log line is not worth more
        else:
            self._torn, self._dropped = False, 0

    def _send(self, data: bytes, patience: float) -> int:
        try:
            return self._try(data)
        except BlockingIOError:
            poll = select.poll()
            poll.register(self.descriptor, select.POLLOUT)
            if not poll.poll(patience * 1000):
                raise
        return self._try(data)

    def _try(self, data: bytes) -> int:
        if not self._is_socket:
            return os.write(self.descriptor, data)
        with socket.socket(fileno=os.dup(self.descriptor)) as sock:
            return sock.send(data, socket.MSG_DONTWAIT)


def _reopened(descriptor: int) -> int:
    """The same stream with a file description of its own, which doesn't block; or at least another number for it.

    Only pipes and terminals can be opened anew in the same place (proc(5), /proc/pid/fd): a file has a position.
    """
    try:
        if _is(stat.S_ISFIFO, descriptor) or _is(stat.S_ISCHR, descriptor):
            return os.open(f"/dev/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # no /proc, or a terminal of somebody else
        pass
    try:
        return os.dup(descriptor)
    except OSError:  # it is closed
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _is(kind: Callable[[int], bool], descriptor: int) -> bool:
    try:
        return kind(os.fstat(descriptor).st_mode)
    except OSError:
        return False


class _Stderr(logging.Handler):
    """Writes into the sink."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = (self.format(record) + "\n").encode("utf-8", "replace")
        except Exception:  # noqa: BLE001  arguments that don't fit, whose __str__ may raise anything
            self.handleError(record)  # logging's own complaint
            return
        _the_sink().write(data)


class _Text(logging.Formatter):
    """`2026-11-23T19:00:00.123Z INFO  supervisor email: text`; a traceback follows, indented.

    What is logged within an attempt ends with `[MESSAGE-ID attempt N]`: several may run in the same process.
    """

    def format(self, record: logging.LogRecord) -> str:
        level = _SHORT.get(record.levelname, record.levelname)
        message = escaped(hide_password(record.getMessage()) + _attempt())
        first = f"{rfc3339(record.created)} {level:<5} {log_fields.role(record)}: {message}"
        return "\n".join([first, *(f"  {line}" for line in escaped_lines(_trace(self, record)) if line)])


class _Json(logging.Formatter):
    """One object a line, always with the same keys (docs/reference/logs.md)."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            **log_fields.known(record),
            "role": log_fields.role(record),
            "pid": record.process,
            "logger": record.name,
            "message": hide_password(record.getMessage()),
            "exception": _trace(self, record) or None,
        }
        return json.dumps(fields)


def _attempt() -> str:
    message = log_fields.message.get()
    return "" if message is None else f" [{message.id} attempt {message.attempt}]"


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info) if record.exc_info else "", record.stack_info or ""]
    return hide_password("\n".join(part for part in parts if part))
