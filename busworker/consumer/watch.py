"""What the consumer waits for: one selector over links and the broker's sockets."""

from __future__ import annotations

import selectors
from collections.abc import Iterable, Mapping

from busworker.ipc.link import Link


class Watch:
    """Wakes when something can be read, or when what is left to send can be."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, source: Link | int) -> None:
        """From now on."""
        self._selector.register(source, selectors.EVENT_READ)

    def remove(self, source: Link | int) -> None:
        """No more; may be called twice."""
        if self._selector.get_map().get(source) is not None:
            self._selector.unregister(source)

    def wait(self, timeout: float) -> None:
        """Until then at most, in seconds."""
        self._selector.select(timeout)

    def flush(self, links: Iterable[Link], sockets: Mapping[int, bool]) -> None:
        """Sends what links have, and watches those on which something is left; of the sockets it is said."""
        for link in links:
            link.flush()
            if not link.closed:
                self._writable(link, link.unsent)
        for descriptor, unsent in sockets.items():
            self._writable(descriptor, unsent)

    def _writable(self, source: Link | int, unsent: bool) -> None:
        """Selects for writing exactly while something is left to send."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0)
        key = self._selector.get_map().get(source)
        if key is not None and key.events != wanted:
            self._selector.modify(source, wanted)
