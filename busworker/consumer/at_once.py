"""What workers publish at once: outside an attempt, or with `immediately=True`. Runs in the consumer.

Each request waits until the broker has stored it, or until its worker's publish deadline. So a start hook can publish
although its worker is ready before its consumer has connected, and a broker that restarts fails no publish.
"""

from __future__ import annotations

from collections import deque

import msgspec

from busworker.broker.session import Session
from busworker.errors import BrokerUnavailable, BusworkerError
from busworker.ipc.frames import Published, PublishNow
from busworker.ipc.link import Link


class Asked(msgspec.Struct):
    """A worker that waits; `until` is monotonic seconds, `sent` says that a broker may have stored it."""

    link: Link
    frame: PublishNow
    until: float
    sent: bool = False


class AtOnce:
    """The requests that wait, oldest first.

    Attributes:
        trouble: why the broker can't be used, as a worker is told whose time is over.
    """

    def __init__(self) -> None:
        self.trouble = "the consumer has no connection to the broker yet"
        self._waiting: deque[Asked] = deque()

    @property
    def next_due(self) -> float:
        """When the next one's time is over; monotonic seconds."""
        return min((asked.until for asked in self._waiting), default=float("inf"))

    def ask(self, link: Link, frame: PublishNow, now: float) -> None:
        """A worker wants messages published; it is answered over that link."""
        self._waiting.append(Asked(link, frame, now + frame.seconds))

    def publish(self, session: Session) -> None:
        """Publishes what waits, and answers.

        Raises:
            BrokerUnavailable: the rest goes on waiting.
        """
        while self._waiting:
            asked = self._waiting[0]
            asked.sent = not session.broker.embedded
            try:
                session.publish(asked.frame.outgoing)
            except BrokerUnavailable:
                raise
            except BusworkerError as error:  # trying again doesn't help
                self._answer(asked, str(error))
            else:
                self._answer(asked, None)
            self._waiting.popleft()

    def expire(self, now: float) -> None:
        """Answers those whose time is over."""
        for asked in [asked for asked in self._waiting if asked.until <= now]:
            self._waiting.remove(asked)
            self._answer(asked, self.trouble)

    def _answer(self, asked: Asked, error: str | None) -> None:
        asked.link.send(Published(asked.frame.request, error, unknown=error is not None and asked.sent))
