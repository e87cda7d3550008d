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


class _Runs:
    """A set of tags, kept as its runs: one delivery that stays open for long has millions settled behind it."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}
        """Of each run, by its first tag."""
        self._first: dict[int, int] = {}

    def add(self, tag: int) -> None:
        first = self._first.pop(tag - 1, tag)
        last = self._last.pop(tag + 1, tag)
        self._last[first], self._first[last] = last, first

    def take(self, first: int) -> int | None:
        """Takes the run that begins there out; returns its last tag."""
        last = self._last.pop(first, None)
        if last is not None:
            del self._first[last]
        return last


class Acks:
    """The deliveries of one kombu_channel.

    Attributes:
        settled: how many are.
    """

    def __init__(self) -> None:
        self.settled = 0
        self._low = 0
        """All up to this one are settled, and the broker knows."""
        self._gone = _Runs()
        """Above that: settled one by one."""
        self._done: set[int] = set()
        self._since = float("inf")

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
        self.settled += 1

    def take(self, now: float, *, at_once: bool = False) -> Sending:
        """What to send now. `at_once`: all of it, whatever else may come."""
        sending = self._contiguous()
        if self._done and (at_once or now >= self.next_due):
            sending.single = sorted(self._done)
            sending.tags += sending.single
            for tag in sending.single:
                self._gone.add(tag)
            self._done.clear()
        self._since = now if self._done and sending.upto else self._since if self._done else float("inf")
        self.settled += len(sending.tags)
        return sending

    def _contiguous(self) -> Sending:
        tag, upto, tags = self._low + 1, 0, list[int]()
        while True:
            if tag in self._done:
                self._done.remove(tag)
                tags.append(tag)
                upto = tag
            elif (last := self._gone.take(tag)) is not None:
                tag = last
            else:
                break
            tag += 1
        self._low = tag - 1
        return Sending(upto, [], tags)
