"""What a worker leaves of itself: its Python stacks at its end, and what it writes to its standard streams.

Handlers write into a pipe, and the supervisor makes log lines of it: so nothing that they write breaks a line of the
log or drives a terminal, each line says from which worker it is, and what a worker wrote last isn't lost with it. Who
writes faster than this is read waits in its own write(2); who reads the log slowly holds up nobody (`logs.Sink`).
"""

from __future__ import annotations

import os
import selectors

from busworker import logs
from busworker.ipc import stacks
from busworker.supervisor.plan import Kill

CHUNK = 16 * 1024
"""Bytes that are read at a time, so that one who writes much leaves time for the others."""
LONGEST_LINE = 8192
"""Bytes; the rest of a longer line is cut."""
PIPE = 64 * 1024
"""Bytes that a pipe holds on Linux (pipe(7)): as much may be left when its writer is dead."""


class Traces:
    """The traces of one worker.

    Args:
        role: how log lines name the worker.
        selector: the loop's; its data is what to call when something was written.

    Attributes:
        stacks: the file for its stacks.
        output: where it writes.
        planned: the kill before which it was told to write its stacks.
    """

    def __init__(self, role: str, selector: selectors.BaseSelector) -> None:
        self.planned: Kill | None = None
        self._role = role
        self._selector = selector
        self._line = b""
        self._cut = 0
        self.stacks = stacks.new_file()
        self._reading, self.output = os.pipe()
        os.set_blocking(self._reading, False)
        selector.register(self._reading, selectors.EVENT_READ, self._hear)

    def forked(self) -> None:
        """The worker is there: it alone may write now."""
        os.close(self.output)
        self.output = -1

    def forget(self) -> None:
        """What was dumped so far concerns nobody."""
        stacks.clear(self.stacks)

    def close(self) -> str | None:
        """The worker is dead, or was never forked: its stacks, if it wrote some; the rest of its output is logged."""
        if self.output >= 0:
            self.forked()
        taken = 0
        while taken < PIPE and (data := self._read()):  # children of a handler may go on writing
            self._take(data)
            taken += len(data)
        self._end_line()
        self._selector.unregister(self._reading)
        os.close(self._reading)
        try:
            return stacks.read(self.stacks)
        finally:
            os.close(self.stacks)

    def _hear(self) -> None:
        self._take(self._read())

    def _read(self) -> bytes:
        try:
            return os.read(self._reading, CHUNK)
        except BlockingIOError:
            return b""

    def _take(self, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._add(line)
            self._end_line()
        self._add(rest)

    def _add(self, part: bytes) -> None:
        room = LONGEST_LINE - len(self._line)
        self._line += part[:room]
        self._cut += max(0, len(part) - room)

    def _end_line(self) -> None:
        if self._line:
            cut = f" … {self._cut} bytes cut" if self._cut else ""
            logs.repeat(self._role, self._line.decode("utf-8", "replace") + cut)
        self._line, self._cut = b"", 0
