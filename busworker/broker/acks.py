"""Which deliveries of a kombu_channel are done, and what the broker is told of that. Pure.

Delivery tags of a kombu_channel count from 1 (AMQP 0-9-1, 1.1). One acknowledgement says that all up to a tag are done;
each of those costs the broker and us as much as one of a single message.
"""

from __future__ import annotations

import msgspec

DELAY = 0.005
"""Seconds that an acknowledgement may wait for those before it, so that they can go as one."""


class Sending(msgspec.Struct):
    """What to send: one acknowledgement of all up to `upto` (0: none), and single ones. `tags`: what that settles."""

    upto: int = 0
    single: list[int] = []
    tags: list[int] = []


class Acks:
    """The deliveries of one kombu_channel."""

    def __init__(self) -> None:
        self._low = 0
        """All up to this one are settled, and the broker knows."""
        self._gone: set[int] = set()
        """Above that: settled one by one."""
        self._done: set[int] = set()
        self._since = float("inf")

    @property
    def settled(self) -> int:
        """How many are."""
        return self._low + len(self._gone)

    @property
    def next_due(self) -> float:
        """When those go that have waited long enough for others before them; monotonic seconds."""
        return self._since + DELAY

    @property
    def waiting(self) -> list[int]:
        """Those that are done, and the broker doesn't know."""
        return sorted(self._done)

    def done(self, tag: int, now: float) -> None:
        """A delivery is to be acknowledged."""
        self._done.add(tag)
        if self._since > now:
            self._since = now

    def returned(self, tag: int) -> None:
        """A delivery was given back: the broker has been told."""
        self._gone.add(tag)

    def take(self, now: float, *, at_once: bool = False) -> Sending:
        """What to send now. `at_once`: all of it, whatever else may come."""
        sending = self._contiguous()
        if self._done and (at_once or now >= self.next_due):
            sending.single = sorted(self._done)
            sending.tags += sending.single
            self._gone |= self._done
            self._done.clear()
        self._since = now if self._done and sending.upto else self._since if self._done else float("inf")
        return sending

    def _contiguous(self) -> Sending:
        tag, upto, tags = self._low + 1, 0, list[int]()
        while True:
            if tag in self._done:
                self._done.remove(tag)
                tags.append(tag)
                upto = tag
            elif tag in self._gone:
                self._gone.remove(tag)
            else:
                break
            tag += 1
        self._low = tag - 1
        return Sending(upto, [], tags)
