"""Log lines on stderr: text for people or JSON for machines, one write a record, alike in every process.

Modules log to `logging.getLogger("busworker.<part>")`. Every line names the process by its role, which a
child sets after its fork. Passwords in URLs are hidden and control characters escaped here, for all callers.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime

from busworker.plain import escaped, escaped_lines
from busworker.urls import hide_password

STDERR = 2
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_SHORT = {"WARNING": "WARN", "CRITICAL": "FATAL"}

_role = "busworker"


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
    set_role(role)
    handler = _Stderr()
    handler.setFormatter(_Json() if format == "json" else _Text())
    ours, root = logging.getLogger("busworker"), logging.getLogger()
    _install(ours, handler, LEVELS[level])
    ours.propagate = False
    if all(isinstance(found, _Stderr) for found in root.handlers):
        _install(root, handler, LEVELS[level])


def set_role(role: str) -> None:
    """Names this process in its log lines; for a child right after its fork."""
    global _role  # noqa: PLW0603  one name a process
    _role = role


def reclaim() -> None:
    """Undoes `logging.config.dictConfig` switching off our loggers (`disable_existing_loggers`)."""
    for name, logger in logging.Logger.manager.loggerDict.items():
        if name.partition(".")[0] == "busworker" and isinstance(logger, logging.Logger):
            logger.disabled = False


def _install(logger: logging.Logger, handler: logging.Handler, level: int) -> None:
    for found in [found for found in logger.handlers if isinstance(found, _Stderr)]:
        logger.removeHandler(found)
    logger.addHandler(handler)
    logger.setLevel(level)


class _Stderr(logging.Handler):
    """Writes to the descriptor itself: a line is one write(2), so lines of several processes don't mix."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = (self.format(record) + "\n").encode("utf-8", "replace")
        except (
            TypeError,
            ValueError,
            KeyError,
        ):  # arguments that don't fit the text: logging's own complaint
            self.handleError(record)
            return
        try:
            while data:
                data = data[os.write(STDERR, data) :]
        except OSError:
            pass  # closed, full or not ready: a log line is not worth more


class _Text(logging.Formatter):
    """`2026-11-23T19:00:00.123Z INFO  supervisor email: text`; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        level = _SHORT.get(record.levelname, record.levelname)
        message = escaped(hide_password(record.getMessage()))
        first = f"{_time(record)} {level:<5} {_role}: {message}"
        return "\n".join([first, *(f"  {line}" for line in escaped_lines(_trace(self, record)) if line)])


class _Json(logging.Formatter):
    """One object a line, with the keys time, level, role, pid, logger, message and exception."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "role": _role,
            "pid": record.process,
            "logger": record.name,
            "message": hide_password(record.getMessage()),
            "exception": _trace(self, record) or None,
        }
        return json.dumps(fields)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info) if record.exc_info else "", record.stack_info or ""]
    return hide_password("\n".join(part for part in parts if part))
