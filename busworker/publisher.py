"""Publishing from an ordinary process: `publish` only appends to a bounded buffer, and a background thread sends.

The thread takes what has gathered, and ends every receipt (sending.py). After a fork the child starts with a fresh,
empty publisher of its own. A signal handler may publish too, also when it interrupts `publish` itself: the lock may be
taken again by the thread that has it, and between a look and the change it leads to nothing here is called.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import os
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busworker import fault_log, settings
from busworker.errors import PublishFailed
from busworker.ids import Ids
from busworker.log_fields import event
from busworker.message import Outgoing
from busworker.receipt import Receipt, conclude
from busworker.sending import Pending, Sender

if TYPE_CHECKING:
    from busworker.bus import Bus

log = fault_log.logger("busworker.publisher")

BATCH = 1000
MAX_PENDING = 10_000
MAX_PENDING_BYTES = 64 * 1024 * 1024
UNTOLD = (
    "this process was forked after its parent had published, and Python wasn't told, so that its locks and connections "
    "can't be trusted: give uWSGI py-call-osafterfork = true and enable-threads = true, or lazy-apps = true"
)


class Publisher:
    """Publishes messages of one bus from this process.

    Args:
        url: the broker.
        deadline: seconds after which a receipt that isn't confirmed has failed.
        spool: a folder for what the broker can't take; None: it fails.
    """

    def __init__(self, url: str, deadline: float, spool: Path | None = None) -> None:
        self._url = url
        self._deadline = deadline
        self._spool = spool
        self._registered: int | None = None
        # What keeps forks out of a store's transactions, before there is a thread that has any.
        importlib.import_module("busworker.transports.engine.lock")
        self._reset()
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        # The thread is gone and the messages are the parent's to send: no receipt here may wait for them.
        pending = [one.receipt for one in (*self._batch, *self._buffer)]
        if self._sender is not None:
            self._sender.forget()
        self._reset()
        conclude(pending, "unknown", PublishFailed("it is the parent process that publishes this message"))

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._ids = Ids()
        self._lock = threading.RLock()  # taken itself where it is taken often: by way of the condition it costs twice
        self._changed = threading.Condition(self._lock)
        self._buffer: deque[Pending] = deque()
        self._bytes = 0
        self._refused = 0
        self._batch: list[Pending] = []
        self._closing = False
        self._thread: threading.Thread | None = None
        self._starting = False
        self._sender: Sender | None = None

    def publish(self, outgoing: Outgoing, *, immediately: bool = False) -> Receipt:
        """Takes a message; see `Bus.publish`. `immediately` changes nothing outside an attempt."""
        id = outgoing.id
        if not id:
            id = outgoing.properties["message_id"] = self._ids.new(time.time())
        if self._inherited:
            log.error("%s", UNTOLD)
            return Receipt(id, _state="failed", _error=PublishFailed(UNTOLD))  # the lock of receipts may be held too
        receipt = Receipt(id)
        pending = Pending(outgoing, receipt, time.monotonic() + self._deadline)
        size = len(outgoing.body)
        with self._lock:
            if self._full() and not self._wait_for_room(pending):
                self._refuse(receipt)
                return receipt
            if self._thread is None and not self._starting:
                self._starting = True
                self._start()
            self._buffer.append(pending)
            self._bytes += size
            if len(self._buffer) == 1:
                self._changed.notify_all()
        return receipt

    def flush(self, timeout: float | None = None) -> None:
        """Waits until nothing is pending.

        Raises:
            TimeoutError: `timeout` seconds were not enough.
        """
        if self._inherited:
            return
        with self._changed:
            if not self._changed.wait_for(self._is_idle, timeout):
                raise TimeoutError(f"{len(self._buffer) + len(self._batch)} messages are still not confirmed")

    def close(self) -> None:
        """Flushes, at most until the last deadline, and ends the thread."""
        if self._inherited:
            return
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(self._deadline + 5)

    @property
    def _inherited(self) -> bool:
        """Whether all of this is a copy of the parent's, because this process was forked behind Python's back."""
        return os.getpid() != self._pid

    def _refuse(self, receipt: Receipt) -> None:
        self._refused += 1
        error = PublishFailed("the publisher's buffer is full: the broker doesn't keep up")
        if self._refused == 1:
            log.error("%s", error, extra=event("publisher_full", fault="full"))
        conclude([receipt], "failed", error)

    def _full(self) -> bool:
        return len(self._buffer) >= MAX_PENDING or (self._bytes >= MAX_PENDING_BYTES and bool(self._buffer))

    def _wait_for_room(self, pending: Pending) -> bool:
        left = pending.deadline - time.monotonic()
        return not _in_event_loop() and self._changed.wait_for(lambda: not self._full(), left)

    def _start(self) -> None:
        self._closing = False
        try:
            # One of its own for each thread: the last one may just be closing its own.
            sender = self._sender = Sender(self._url, self._deadline, self._spool)
            thread = threading.Thread(target=self._run, args=(sender,), name="busworker publisher", daemon=True)
            thread.start()
            self._thread = thread
        finally:
            self._starting = False
        if self._registered != os.getpid():
            self._registered = os.getpid()
            self._close_at_exit()

    def _close_at_exit(self) -> None:
        """Has it flushed when the process ends: those of multiprocessing end by os._exit, which knows no atexit."""
        multiprocessing: Any = sys.modules.get("multiprocessing.process")
        if multiprocessing is not None and multiprocessing.parent_process() is not None:
            sys.modules["multiprocessing.util"].Finalize(None, self.close, exitpriority=0)
        else:
            atexit.register(self.close)

    def _is_idle(self) -> bool:
        return not self._buffer and not self._batch

    # The thread

    def _run(self, sender: Sender) -> None:
        try:
            sender.open()
            while (batch := self._next_batch(sender.next_due())) != []:
                if batch:
                    sender.send(batch)
                sender.tend()
        except BaseException:
            self._abandon()  # an error of our own, told by threading: nobody may wait for ever
            raise
        finally:
            sender.close()

    def _next_batch(self, timeout: float | None) -> list[Pending] | None:
        """Waits for messages, at most `timeout` seconds: then None. An empty batch says that there will be none."""
        with self._changed:
            self._batch = []
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._buffer or self._closing, timeout):
                return None
            take = self._buffer.popleft
            batch = [take() for _ in range(min(len(self._buffer), BATCH))]
            self._bytes -= sum([len(pending.outgoing.body) for pending in batch])
            self._batch = batch
            if self._refused:
                told = event("publisher_full", fault="count")
                log.error("%d message(s) found no room in the publisher's buffer", self._refused, extra=told)
                self._refused = 0
            if not batch:
                self._thread = None
            return batch

    def _abandon(self) -> None:
        with self._changed:
            left = [*self._batch, *self._buffer]
            self._batch, self._bytes, self._thread = [], 0, None
            self._buffer.clear()
            self._changed.notify_all()
        conclude([pending.receipt for pending in left], "unknown", PublishFailed("the publisher's thread has failed"))


def open_port(bus: Bus) -> Publisher:
    """The publisher of a bus in this process; flushed when the interpreter exits."""
    spool = settings.find(settings.SPOOL, declared=bus.spool)
    return Publisher(settings.broker_of(bus.broker), bus.publish_deadline, None if spool is None else Path(spool))


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
