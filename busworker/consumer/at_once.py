"""What workers publish at once: outside an attempt, or with `immediately=True`. Runs in the consumer.

Each request waits until the broker has stored it, or until its worker's publish deadline. So a start hook can publish
although its worker is ready before its consumer has connected, and a broker that restarts fails no publish.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import msgspec

from busworker.broker.session import Session, Settled
from busworker.errors import BrokerUnavailable, BusworkerError
from busworker.ipc.frames import Published, PublishNow
from busworker.ipc.link import Link


class Asked(msgspec.Struct):
    """A worker that waits; `until` is monotonic seconds, `sent` says that a broker may have stored it."""

    link: Link
    frame: PublishNow
    until: float
    sent: bool = False
    under_way: bool = False


class AtOnce:
    """The requests that wait, oldest first. A session knows each by a negative tag, which no delivery has.

    Attributes:
        trouble: why the broker can't be used, as a worker is told whose time is over.
    """

    def __init__(self) -> None:
        self.trouble = "the consumer has no connection to the broker yet"
        self._tags = itertools.count(-1, -1)
        self._waiting: dict[int, Asked] = {}

    @property
    def next_due(self) -> float:
        """When the next one's time is over; monotonic seconds."""
        return min((asked.until for asked in self._waiting.values()), default=float("inf"))

    def ask(self, link: Link, frame: PublishNow, now: float) -> None:
        """A worker wants messages published; it is answered over that link."""
        self._waiting[next(self._tags)] = Asked(link, frame, now + frame.seconds)

    def submit(self, session: Session) -> None:
        """Begins to publish what waits.

        Raises:
            BrokerUnavailable: the rest goes on waiting.
        """
        for tag, asked in list(self._waiting.items()):
            if asked.under_way:
                continue
            asked.sent = not session.broker.embedded
            try:
                session.submit([Settled(tag, "publish", tuple(asked.frame.outgoing))])
            except BrokerUnavailable:
                raise
            except BusworkerError as error:  # trying again doesn't help
                self._answer(tag, str(error))
            else:
                asked.under_way = True

    def concluded(self, tags: Iterable[int]) -> None:
        """Answers those that are stored."""
        for tag in tags:
            if tag in self._waiting:  # else its time was over
                self._answer(tag, None)

    def lose(self) -> None:
        """The session is over: all begin anew."""
        for asked in self._waiting.values():
            asked.under_way = False

    def expire(self, now: float) -> None:
        """Answers those whose time is over."""
        for tag in [tag for tag, asked in self._waiting.items() if asked.until <= now]:
            self._answer(tag, self.trouble)

    def _answer(self, tag: int, error: str | None) -> None:
        asked = self._waiting.pop(tag)
        asked.link.send(Published(asked.frame.request, error, unknown=error is not None and asked.sent))
