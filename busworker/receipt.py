"""The receipt of a published message: what its publisher learns, and how it waits for it. Pure threading, no I/O."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Literal, TypeAlias, overload

import msgspec

from busworker.errors import PublishFailed
from busworker.log_fields import event

State: TypeAlias = Literal["pending", "confirmed", "failed", "unknown"]

log = logging.getLogger("busworker.publisher")

# One condition for all receipts of a process: a receipt costs no lock of its own, and most are never waited for.
_changed = threading.Condition()


def _renew() -> None:
    global _changed  # noqa: PLW0603  a fork may have copied it while the publisher's thread held it
    _changed = threading.Condition()


os.register_at_fork(after_in_child=_renew)


class Receipt(msgspec.Struct, eq=False):
    """Tells what became of one published message.

    Attributes:
        id: the message's id.
        duplicate: it is confirmed because a message with this id was stored before; nothing was stored for it.
        spooled: it is confirmed because it is kept on this machine's disk until the broker can take it.
    """

    id: str
    _guard: Callable[[], None] | None = None
    """Called before each wait, and may raise to refuse it."""
    duplicate: bool = False
    spooled: bool = False
    _state: State = "pending"
    _error: Exception | None = None
    _callbacks: list[Callable[[Receipt], object]] | None = None

    @property
    def state(self) -> State:
        """`pending`; `confirmed`: stored, by the broker or in the spool; `failed`: not stored; `unknown`: who knows."""
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
        self.add_done_callback(lambda _: _set(done, loop))
        yield from done.wait().__await__()
        return self._result()

    def add_done_callback(self, callback: Callable[[Receipt], object]) -> None:
        """Calls a function with this receipt once it has ended; at once, if it has.

        It is called by the publisher's thread, or by this one, and must not wait: nothing is published meanwhile.
        What it raises is logged.
        """
        with _changed:
            if self._state == "pending":
                self._callbacks = [*(self._callbacks or ()), callback]
                return
        self._call(callback)

    def _call(self, callback: Callable[[Receipt], object]) -> None:
        try:
            callback(self)
        except Exception:
            told = event("callback_failed", message_id=self.id)
            log.exception("a callback of the receipt of message %s failed", self.id, extra=told)

    def _end(self, state: State, error: Exception | None) -> list[Callable[[Receipt], object]] | None:
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


class Receipts(Sequence[Receipt]):
    """The receipts of messages that were published together, in their order."""

    __slots__ = ("_all",)

    def __init__(self, receipts: Iterable[Receipt]) -> None:
        self._all = tuple(receipts)

    @overload
    def __getitem__(self, index: int) -> Receipt: ...
    @overload
    def __getitem__(self, index: slice) -> Receipts: ...
    def __getitem__(self, index: int | slice) -> Receipt | Receipts:
        return Receipts(self._all[index]) if isinstance(index, slice) else self._all[index]

    def __len__(self) -> int:
        return len(self._all)

    def wait(self, timeout: float | None = None) -> Receipts:
        """Blocks until all messages are confirmed.

        Args:
            timeout: seconds for all together; None waits as long as the publisher's deadline takes.

        Returns:
            These receipts, confirmed.

        Raises:
            PublishFailed: some `failed` or are `unknown`; each receipt tells.
            TimeoutError: some are still pending after `timeout`; waiting again is fine.
            RuntimeError: called inside an attempt.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for receipt in self._all:
            with contextlib.suppress(PublishFailed):
                receipt.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return self._result()

    def __await__(self) -> Generator[object, None, Receipts]:
        """As `wait`, without blocking the event loop."""
        for receipt in self._all:
            with contextlib.suppress(PublishFailed):
                yield from receipt.__await__()
        return self._result()

    def __repr__(self) -> str:
        return f"<Receipts {dict(Counter(receipt.state for receipt in self._all))}>"

    def _result(self) -> Receipts:
        bad = [receipt for receipt in self._all if receipt.state != "confirmed"]
        if bad:
            raise PublishFailed(f"{len(bad)} of {len(self)} messages: {bad[0].error}") from bad[0].error
        return self


def conclude(
    receipts: list[Receipt],
    state: State,
    error: Exception | None = None,
    *,
    spooled: bool = False,
    duplicate: bool = False,
) -> None:
    """Ends pending receipts; those that have ended already stay as they are. For the publisher alone."""
    called: list[tuple[Callable[[Receipt], object], Receipt]] = []
    with _changed:
        for receipt in receipts:
            if receipt.state == "pending":
                receipt.spooled, receipt.duplicate = spooled, duplicate
            callbacks = receipt._end(state, error)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            if callbacks:
                called.extend((callback, receipt) for callback in callbacks)
        _changed.notify_all()
    for callback, receipt in called:
        receipt._call(callback)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _set(done: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits there any more
        loop.call_soon_threadsafe(done.set)
