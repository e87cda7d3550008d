"""A connection as kombu's transports have one: channels on one store, waited for together."""

from __future__ import annotations

import os
import time
import weakref
from collections import Counter
from typing import Any

from amqp.exceptions import RecoverableConnectionError

from busworker.transports.channel import Channel
from busworker.transports.engine.location import Location
from busworker.transports.engine.store import Store
from busworker.transports.eventloop import Registration


class Connection:
    """A connection, open.

    Guarantees: a forked child may go on publishing by it (the store gives the child a connection of its own), but has
    none of its consumers, deliveries and open transactions; closing it in the child changes nothing for the parent.

    Raises:
        BrokerUnavailable: the store can't be used now.
        ConfigurationError: it lies on a network file system.
    """

    def __init__(self, client: Any, location: Location, claim_file: str | None = None) -> None:
        self.client = client
        self.store = Store(location, claim_file)
        self.channels: list[Channel] = []
        self.connected = True
        self._listening: Counter[str] = Counter()
        self._registrations: dict[int, Registration] = {}
        _open.add(self)

    def channel(self) -> Channel:
        """A new channel.

        Raises:
            amqp.exceptions.RecoverableConnectionError: the connection is closed.
        """
        if not self.connected:
            raise RecoverableConnectionError("the connection is closed")
        channel = Channel(self)
        self.channels.append(channel)
        return channel

    def fileno(self) -> int:
        """A descriptor that becomes readable when messages may have arrived; `drain_events` empties it."""
        return self.store.fileno()

    def ring(self) -> None:
        """Makes that descriptor readable."""
        self.store.ring()

    def next_due(self) -> float:
        """Seconds, at most 1, after which `drain_events` is worth calling even if nothing became readable."""
        return 0.0 if any(channel.has_more() for channel in self.channels) else self.store.next_due()

    def drain_events(self, timeout: float | None = None) -> None:
        """Hands messages to the callbacks of consumers: one, or from a channel with a prefetch for all of its
        consumers everything it has room for, claimed in one transaction.

        Args:
            timeout: how many seconds to wait for the first; 0 looks once, None waits for ever.

        Raises:
            TimeoutError: nothing came.
            BrokerUnavailable: the store can't be used now; nothing is lost, calling again is right.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self.store.wait(0)
        while not self._deliver():
            left = 1.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no message came")
            self.store.wait(min(left, self.next_due()))

    def rest(self) -> None:
        """Takes the wake-ups that have come, and looks for no messages; the next `drain_events` looks anyway."""
        self.store.wait(0)

    def listen(self, queue: str) -> None:
        """Has us woken when a queue gets messages; call it once a consumer."""
        self.store.listen(queue)
        self._listening[queue] += 1

    def unlisten(self, queue: str) -> None:
        """Ends one `listen`."""
        self._listening[queue] -= 1
        if not self._listening[queue]:
            self.store.unlisten(queue)

    def register(self, loop: Any) -> None:
        """Has an event loop of kombu's drain it from now on. Fine if one does."""
        if id(loop) not in self._registrations:
            self._registrations[id(loop)] = Registration(self, loop)

    def unregister(self, loop: Any) -> None:
        """Ends that; fine if it wasn't."""
        registration = self._registrations.pop(id(loop), None)
        if registration is not None:
            registration.end()

    def close(self) -> None:
        """Closes the channels and leaves the store; what is unacknowledged goes back. Closing twice is fine."""
        if not self.connected:
            return
        while self._registrations:
            self._registrations.popitem()[1].end()
        self.connected = False
        self.client = None
        _open.discard(self)
        try:
            for channel in list(self.channels):
                channel.close()
        finally:
            self.store.close()

    collect = close

    def forget_parent(self) -> None:
        """In a forked child: what is delivered, consumed or begun is the parent's."""
        self._listening.clear()
        for channel in self.channels:
            channel.forget()

    def _deliver(self) -> bool:
        channels = list(self.channels)
        for channel in channels:
            if channel.deliver():
                # The next call begins with the next channel.
                if channel in self.channels:
                    self.channels.remove(channel)
                    self.channels.append(channel)
                return True
        return False


def _forget_parents() -> None:
    for connection in list(_open):
        connection.forget_parent()


_open: weakref.WeakSet[Connection] = weakref.WeakSet()
os.register_at_fork(after_in_child=_forget_parents)
