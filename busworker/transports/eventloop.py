"""A connection in kombu's event loop, as Celery's worker runs it: read when the FIFO says so, and look now and then."""

from __future__ import annotations

from typing import Any, Protocol

AT_ONCE = 20
"""How many messages are handed out before others in the loop get their turn."""


class Drained(Protocol):
    """What of a connection the loop needs; see `busworker.transports.connection.Connection`."""

    def fileno(self) -> int: ...
    def next_due(self) -> float: ...
    def ring(self) -> None: ...
    def drain_events(self, timeout: float | None = None) -> None: ...


class Registration:
    """A connection's place in a loop (`kombu.asynchronous.Hub`), until `end`.

    Guarantees: messages are handed out as they come; as room for them comes, by acknowledging or by a greater prefetch;
    and at their due time, or within a second if a publisher died before it woke us. What the store raises, the loop
    raises.
    """

    def __init__(self, connection: Drained, loop: Any) -> None:
        self._connection = connection
        self._loop = loop
        self._timer: Any = None
        self._descriptor = connection.fileno()
        loop.add_reader(self._descriptor, self._drain)
        loop.on_tick.add(self._tick)

    def end(self) -> None:
        """Leaves the loop. Ending twice is fine."""
        self._cancel()
        self._loop.on_tick.discard(self._tick)
        self._loop.remove_reader(self._descriptor)

    def _tick(self) -> None:
        # Before each wait of the loop: an acknowledgement since then may have made room.
        if self._connection.next_due() <= 0:
            self._drain()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._connection.next_due(), self._drain)

    def _drain(self) -> None:
        self._cancel()
        try:
            for _ in range(AT_ONCE):
                self._connection.drain_events(timeout=0)
        except TimeoutError:
            return
        self._connection.ring()  # there may be more: others in the loop come first

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
