"""What an application declares, without importing it here: a short-lived child imports it and reports.

For `start --no-preload`, whose supervisor must hold none of the application's memory, threads and sockets.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import msgspec

from busworker.application import load
from busworker.bus import Bus
from busworker.channel import Subscription
from busworker.declaration import ServiceSpec
from busworker.errors import ApplicationError
from busworker.message import as_text
from busworker.parent import die_with_parent
from busworker.payload import JSON_CODEC


class Report(msgspec.Struct):
    """What the child says: the declarations and the bus's broker, or the error."""

    service: ServiceSpec | None = None
    broker: str | None = None
    spool: str | None = None
    error: str | None = None


def preview(spec: str) -> Bus:
    """A Bus with an application's declarations; its handlers can't be called.

    Args:
        spec: `module[:attribute]` or `file.py[:attribute]`.

    Raises:
        ApplicationError: as `application.load`, or importing ended the child.

    Guarantees:
        Call it before there are threads. The child has ended when it returns.
    """
    reading, writing = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        die_with_parent(parent, signal.SIGKILL)
        os.close(reading)
        _report(spec, writing)
    os.close(writing)
    try:
        line = _line(reading)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)  # it has nothing more to do, even if the application left threads there
        _, status = os.waitpid(child, 0)
    if not line:
        raise ApplicationError(f"importing application {spec!r} ended the process ({_end(status)}): mend that")
    return _bus(msgspec.json.decode(line, type=Report))


def _report(spec: str, writing: int) -> NoReturn:
    try:
        bus = load(spec)
        report = Report(service=bus.spec, broker=bus.broker, spool=bus.spool)
    except ApplicationError as error:
        report = Report(error=as_text(error))
    except KeyboardInterrupt:
        os._exit(130)
    _flush()
    data = msgspec.json.encode(report) + b"\n"
    while data:
        data = data[os.write(writing, data) :]
    os._exit(0)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # closed by the application, or nobody reads it


def _line(descriptor: int) -> bytes:
    # Up to the line's end, not the file's: a process that the application started may keep the pipe open.
    data = b""
    while not data.endswith(b"\n"):
        part = os.read(descriptor, 64 * 1024)
        if not part:
            return b""
        data += part
    return data


def _end(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _bus(report: Report) -> Bus:
    if report.service is None:
        raise ApplicationError(report.error or "the application can't be imported")
    bus = Bus(report.service.name, report.broker, spool=report.spool)
    for spec in report.service.channels:
        channel = bus.channel(
            spec.name,
            processes=spec.processes,
            concurrency=spec.concurrency,
            memory_limit=spec.memory_limit,
            max_messages=spec.max_messages,
        )
        channel.subscriptions.extend(
            Subscription(one, JSON_CODEC, _absent, (), wants_message=False, is_async=False)
            for one in spec.subscriptions
        )
    return bus


def _absent(*_: object) -> None:
    raise ApplicationError("this is a preview of the application: its handlers are only in the workers")
