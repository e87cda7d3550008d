"""A worker's end of the link to its consumer, shared by the threads of its process.

Whoever waits reads for all: the main thread for the next message, or another thread for the answer to what it
published. Only one reads at a time, and what it reads for others it leaves where they look.
"""

from __future__ import annotations

import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from busworker.errors import ProtocolError
from busworker.ipc import frames
from busworker.ipc.link import Link
from busworker.message import Outgoing

ANSWER_MARGIN = 1.0
"""Seconds beyond the deadline that the consumer has to say that it is over."""


class Mailbox:
    """The link with its readers.

    Attributes:
        on_order: called, in whatever thread has read it, when an order has come.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._reading = False
        self._orders: deque[frames.Handout | frames.Finish] = deque()
        self._answers: dict[int, frames.Published] = {}
        self._requests = itertools.count(1)
        self.on_order: Callable[[], None] | None = None
        self._pid = os.getpid()
        self._identity = _identity(link)

    @property
    def has_order(self) -> bool:
        """Whether `next_order` won't wait."""
        return bool(self._orders)

    def next_order(self) -> frames.Handout | frames.Finish | None:
        """Waits for the next message, or the word to finish; None: the consumer is gone."""
        while not self._orders:
            if not self._read(lambda: bool(self._orders), None):
                return None
        return self._orders.popleft()

    def fileno(self) -> int:
        """Readable when something has come; for a loop that doesn't wait in `next_order`."""
        return self._link.fileno()

    def look(self) -> bool:
        """Reads what has come, without waiting; False: the consumer is gone."""
        return self._read(lambda: False, 0)

    def take_order(self) -> frames.Handout | frames.Finish | None:
        """The next order that was read; None: there is none."""
        return self._orders.popleft() if self._orders else None

    def send(self, frame: frames.Frame) -> None:
        """Sends a frame whole; never from a process that a handler forked, nor into another file.

        A handler may have closed the link, and its number may mean something else by now; or the consumer has ended
        the conversation, because what a handler wrote there was nonsense. Then this process ends: what it executed
        fails, and what it was handed and hasn't begun is given back.

        Raises:
            ProtocolError: it is too long or can't be encoded; nothing was sent.
        """
        if os.getpid() != self._pid or _identity(self._link) != self._identity:
            os._exit(1)
        with self._writing:
            self._link.send(frame)
        if self._link.broken:
            os._exit(1)

    def publish(self, outgoing: list[Outgoing], timeout: float) -> frames.Published:
        """Has the consumer publish messages now, and waits until it says that they are stored, or why not.

        It tries for `timeout` seconds. One that doesn't answer even then, or is gone, leaves it unknown.
        """
        request = next(self._requests)
        self.send(frames.PublishNow(request, outgoing, timeout))
        deadline = time.monotonic() + timeout + ANSWER_MARGIN
        while request not in self._answers:
            left = deadline - time.monotonic()
            if left <= 0:
                return frames.Published(request, "the consumer hasn't confirmed the message in time", unknown=True)
            if not self._read(lambda: request in self._answers, left):
                return frames.Published(request, "the consumer is gone", unknown=True)
        return self._answers.pop(request)

    def _read(self, enough: Callable[[], bool], timeout: float | None) -> bool:
        """Reads once, or waits while another thread reads; False when the other side is gone."""
        with self._changed:
            if enough():  # it may have come since our caller looked; then nobody would wake us for it
                return True
            if self._reading:
                self._changed.wait(timeout)
                return not self._link.closed or enough()
            self._reading = True
        arrived: list[frames.Frame] = []
        try:
            if timeout is None or select.select([self._link], [], [], timeout)[0]:
                arrived = self._link.receive()
        finally:
            with self._changed:
                self._sort(arrived)
                self._reading = False
                self._changed.notify_all()
        return not self._link.closed or bool(self._orders)

    def _sort(self, arrived: list[frames.Frame]) -> None:
        for frame in arrived:
            match frame:
                case frames.Handout() | frames.Finish():
                    self._orders.append(frame)
                case frames.Published(request):
                    self._answers[request] = frame
                case _:
                    raise ProtocolError(f"the consumer sent {type(frame).__name__}")
        if self.on_order is not None and self._orders:
            self.on_order()


def _identity(link: Link) -> tuple[int, int] | None:
    try:
        found = os.fstat(link.fileno())
    except OSError:
        return None
    return found.st_dev, found.st_ino
