"""Who consumes on a channel, and how much each may hold. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

UNBOUNDED_BATCH = 100
"""How many messages are claimed at once for a consumer without a prefetch."""


class Consumer(msgspec.Struct, eq=False):
    """A consumer of a channel.

    `held` counts its messages that are claimed and not settled; `more` says that its queue may have more than the
    last look brought.
    """

    tag: str
    queue: str
    no_ack: bool
    callback: Callable[[Any], object]
    held: int = 0
    more: bool = True


class Prefetch(msgspec.Struct, frozen=True):
    """How many unsettled messages there may be, 0 for any number: for each consumer, or for the whole channel."""

    count: int = 0
    whole_channel: bool = False

    def room(self, held: int) -> int:
        """How many the channel may claim now, given how many it holds."""
        if self.whole_channel and self.count:
            return max(0, self.count - held)
        return 1 << 30

    def room_of(self, consumer: Consumer) -> int:
        """How many a consumer may get now, leaving aside the channel's limit."""
        if not self.count or self.whole_channel:
            return self.count or UNBOUNDED_BATCH
        return max(0, self.count - consumer.held)


def wanted(consumers: Iterable[Consumer], prefetch: Prefetch) -> list[tuple[str, int]]:
    """The queues to claim from, each with the number of messages that its consumers have room for."""
    rooms: dict[str, int] = {}
    for consumer in consumers:
        room = prefetch.room_of(consumer)
        if room:
            rooms[consumer.queue] = rooms.get(consumer.queue, 0) + room
    return list(rooms.items())
