"""Who runs an instance of a service: the lock that its supervisor holds, and what is written in that file.

The lock is the truth; what is written only names the holder, for the errors of a second start and of commands that get
no answer.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from busworker.errors import AlreadyRunning, ConfigurationError


class Identity(msgspec.Struct, frozen=True):
    """Which service this is, and its supervisor; `broker` is without its password."""

    service: str
    instance: str
    broker: str
    pid: int


@contextmanager
def held(path: Path, who: Identity, inherited: int | None = None) -> Generator[int]:
    """Holds the instance's lock (flock(2)); children close their copy, so it goes with the supervisor.

    Args:
        path: the lock's file.
        who: what is written there.
        inherited: a descriptor that holds the lock already, unless its file was removed meanwhile.

    Raises:
        AlreadyRunning: another supervisor holds it.
        ConfigurationError: the file can't be made.
    """
    try:
        descriptor = _opened(path, inherited)
    except OSError as error:
        raise ConfigurationError(f"the lock {path} can't be made: {error.strerror}") from error
    try:
        _lock(descriptor, path, who)
        with suppress(OSError):  # a full disk: then errors name nobody
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, msgspec.json.encode(who), 0)
        try:
            yield descriptor
        finally:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def holder(path: Path) -> Identity | None:
    """Who has written itself into a lock's file last; None if nobody has, or it has let go of it in order."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    except (OSError, msgspec.DecodeError):
        return None


def already_running(who: Identity, pid: int | None) -> AlreadyRunning:
    """The error of a second start; `pid` is the first one's supervisor, None if that isn't known."""
    process = f" (process {pid})" if pid else ""
    return AlreadyRunning(
        f"service {who.service} runs already as instance {who.instance!r} on this broker{process}: "
        "stop it, or choose another --instance"
    )


def _opened(path: Path, inherited: int | None) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if inherited is None:
        return descriptor
    same = os.path.sameopenfile(descriptor, inherited)
    os.close(descriptor if same else inherited)
    return inherited if same else descriptor


def _lock(descriptor: int, path: Path, who: Identity) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        first = holder(path)
        raise already_running(who, None if first is None else first.pid) from error
