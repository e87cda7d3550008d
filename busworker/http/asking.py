"""Asking the supervisor, without waiting for it longer than a client would, or more often than makes sense."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from busworker.errors import ControlError
from busworker.ipc import control

T = TypeVar("T")


async def ask(path: Path, command: str, arguments: Mapping[str, object], timeout: float) -> object:
    """As `control.ask`, in an event loop: what the service at that socket answers within so many seconds.

    Raises:
        Refused: it answered with an error.
        ControlError: it didn't answer, or not with sense.
    """
    try:
        async with asyncio.timeout(timeout):
            return control.parse_answer(await _line(path, control.encode_request(command, arguments)))
    except TimeoutError as error:
        raise ControlError(f"the supervisor didn't answer within {timeout:g} s") from error
    except (OSError, ValueError) as error:  # ValueError: the line is too long
        raise ControlError(f"the supervisor can't be asked: {error}") from error


async def _line(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path, limit=control.MOST_BYTES)
    try:
        writer.write(request)
        return await reader.readline()
    finally:
        writer.transport.abort()


class Shared(Generic[T]):
    """An answer for all who want it at about the same time, so that nobody is asked more often for many of them.

    Args:
        ask: gets it; must not raise.
        seconds: for how long it is good.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._task: asyncio.Task[T] | None = None
        self._good_until = 0.0

    async def get(self) -> T:
        """The answer; a caller that is cancelled takes it from nobody else."""
        if self._task is None or (self._task.done() and time.monotonic() >= self._good_until):
            self._task = asyncio.create_task(self._asked())
        return await asyncio.shield(self._task)

    async def _asked(self) -> T:
        answer = await self._ask()
        self._good_until = time.monotonic() + self._seconds
        return answer
