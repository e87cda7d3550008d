"""The receipt of a published message: what its publisher learns, and how it waits for it. Pure threading, no I/O."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Generator
from typing import Literal, TypeAlias

from busworker.errors import PublishFailed

State: TypeAlias = Literal["pending", "confirmed", "failed", "unknown"]

# One condition for all receipts of a process: a receipt costs no lock of its own, and most are never waited for.
_changed = threading.Condition()


def _renew() -> None:
    global _changed  # noqa: PLW0603  a fork may have copied it while the publisher's thread held it
    _changed = threading.Condition()


os.register_at_fork(after_in_child=_renew)


class Receipt:
    """Tells what became of one published message.

    Attributes:
        id: the message's id.
    """

    __slots__ = ("_callbacks", "_error", "_guard", "_state", "id")

    def __init__(self, id: str, guard: Callable[[], None] | None = None) -> None:
        """Makes a pending receipt; `guard` is called before each wait and may raise to refuse it."""
        self.id = id
        self._state: State = "pending"
        self._error: Exception | None = None
        self._guard = guard
        self._callbacks: list[Callable[[Receipt], None]] | None = None

    @property
    def state(self) -> State:
        """`pending`; `confirmed`: stored by the broker; `failed`: not stored; `unknown`: it can't be told."""
        return self._state

    @property
    def error(self) -> Exception | None:
        """Why it failed, or None."""
        return self._error

    def wait(self, timeout: float | None = None) -> Receipt:
        """Blocks until the message is confirmed.

        Args:
            timeout: seconds; None waits as long as the publisher's deadline takes, which always ends.

        Returns:
            This receipt, confirmed.

        Raises:
            PublishFailed: the state is `failed` or `unknown`.
            TimeoutError: it is still pending after `timeout`; waiting again is fine.
            RuntimeError: called inside an attempt, whose messages go out only after the handler returned.
        """
        if self._guard is not None:
            self._guard()
        with _changed:
            if not _changed.wait_for(lambda: self._state != "pending", timeout):
                raise TimeoutError(f"message {self.id} is still not confirmed after {timeout:g} s")
        return self._result()

    def __await__(self) -> Generator[object, None, Receipt]:
        """As `wait`, without blocking the event loop."""
        if self._guard is not None:
            self._guard()
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        self._when_ended(lambda _: _set(done, loop))
        yield from done.wait().__await__()
        return self._result()

    def _when_ended(self, callback: Callable[[Receipt], None]) -> None:
        # Private: called by the publisher's thread, which an error in an application's callback would end.
        with _changed:
            if self._state == "pending":
                self._callbacks = [*(self._callbacks or ()), callback]
                return
        callback(self)

    def _end(self, state: State, error: Exception | None) -> list[Callable[[Receipt], None]] | None:
        """Ends it unless it has ended, under the lock of all receipts; returns whom to call back without that lock."""
        if self._state != "pending":
            return None
        self._state, self._error = state, error
        callbacks, self._callbacks = self._callbacks, None
        return callbacks

    def __repr__(self) -> str:
        return f"<Receipt {self.id} {self._state}>"

    def _result(self) -> Receipt:
        if self._state != "confirmed":
            raise PublishFailed(str(self._error or f"message {self.id} is {self._state}")) from self._error
        return self


def conclude(receipts: list[Receipt], state: State, error: Exception | None = None) -> None:
    """Ends pending receipts; those that have ended already stay as they are. For the publisher alone."""
    called: list[tuple[Callable[[Receipt], None], Receipt]] = []
    with _changed:
        for receipt in receipts:
            callbacks = receipt._end(state, error)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            if callbacks:
                called.extend((callback, receipt) for callback in callbacks)
        _changed.notify_all()
    for callback, receipt in called:
        callback(receipt)


def _set(done: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits there any more
        loop.call_soon_threadsafe(done.set)
