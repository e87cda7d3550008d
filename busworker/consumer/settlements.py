"""Attempts that have ended, on their way to be settled. Runs in the consumer."""

from __future__ import annotations

import msgspec

from busworker.broker.session import Session
from busworker.consumer.dispatch import Held
from busworker.consumer.settling import Ended, Step, step
from busworker.declaration import SubscriptionSpec


class Concluded(msgspec.Struct, gc=False):
    """An attempt that is settled, and how."""

    ended: Ended
    step: Step


class Settlements:
    """What ended waits until it is submitted, and is then under way until the broker has done all of it.

    Args:
        subscriptions: those of the channel, in their order.
    """

    def __init__(self, subscriptions: tuple[SubscriptionSpec, ...]) -> None:
        self._subscriptions = subscriptions
        self._ended: list[Ended] = []
        self._under_way: dict[int, Concluded] = {}
        self._delays: set[int] = set()

    @property
    def fresh(self) -> bool:
        """Whether something is to be submitted."""
        return bool(self._ended)

    @property
    def left(self) -> bool:
        """Whether anything isn't settled yet."""
        return bool(self._ended or self._under_way)

    def add(self, ended: Ended) -> None:
        """An attempt has ended, or a message is to be given back."""
        self._ended.append(ended)

    def submit(self, session: Session, now: float) -> None:
        """Has the session begin with all that has ended; `now` is Unix time.

        Raises:
            BrokerUnavailable: calling again is right, with this session or, if that is over, after `lose`.
        """
        if not self._ended:
            return
        steps = [step(ended, self._subscriptions[ended.held.subscription], now) for ended in self._ended]
        self._delays.update(one.delay for one in steps if one.delay)
        self.declare(session)
        session.submit([one.item for one in steps])
        for ended, one in zip(self._ended, steps, strict=True):
            self._under_way[one.item.tag] = Concluded(ended, one)
        self._ended = []

    def declare(self, session: Session) -> None:
        """Declares the retry queues that were needed so far.

        At a reconnect as well: else each would count as a success until one that is refused is needed again.
        """
        for delay in self._delays:
            session.declare_retry(delay)

    def concluded(self, tags: list[int]) -> list[Concluded]:
        """Those that the session has settled, without what it began before a `submit` failed: that comes again."""
        return [self._under_way.pop(tag) for tag in tags if tag in self._under_way]

    def lose(self) -> list[Held]:
        """The session is over: their messages come again, with a new one, and are settled then."""
        lost = [*(one.ended for one in self._under_way.values()), *self._ended]
        self._under_way.clear()
        self._ended = []
        for ended in lost:
            ended.held.outcome = ended.outcome
        return [ended.held for ended in lost]
