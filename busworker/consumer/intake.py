"""What a delivery is when it arrives: new, known already, owed from a killed pool, or not ours to serve.

Keeps what that needs: the keys of messages whose delivery was lost with a connection, of those just settled, and of
those owed. No sockets; the file of owed keys is its only I/O.
"""

from __future__ import annotations

import socket
import uuid
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from busworker import outcome as how
from busworker.consumer.dispatch import Held
from busworker.consumer.settling import Ended, owed
from busworker.declaration import SubscriptionSpec
from busworker.ipc.scoreboard import Owed
from busworker.message import Delivery, key_of, read_envelope
from busworker.names import matches
from busworker.outcome import Error, WorkerInfo

OVERDUE = 60.0
"""Seconds of a connection after which the messages of a lost one have come back, or went to another pool: a broker
delivers what was returned to it before all else."""
REMEMBERED = 10_000
"""Settled keys that are remembered on a broker that may lose an acknowledgement."""


class Intake:
    """The memory by which a consumer knows messages again.

    Args:
        board: the pool's scoreboard, beside which the owed keys are written.
        subscriptions: those of the channel, in their order.
    """

    def __init__(self, board: Path, subscriptions: tuple[SubscriptionSpec, ...]) -> None:
        self._subscriptions = subscriptions
        self._owed = Owed(board)
        self._lost: dict[bytes, list[Held]] = {}
        self._overdue_at = float("inf")
        self._settled: OrderedDict[bytes, None] = OrderedDict()

    def admit(self, delivery: Delivery, subscription: int) -> Held | Ended | None:
        """What a delivery is.

        Returns:
            A new message to hand out; or an attempt that has ended already, to settle; or None: it is the message of
            a lost delivery that is still executing, and now ours again.
        """
        envelope = read_envelope(delivery)
        held = Held(delivery, envelope, key_of(delivery, envelope), subscription, alone=envelope.alone)
        if delivery.redelivered:
            if held.key in self._lost:
                return self._found(self._lost[held.key][0], delivery)
            if held.key in self._settled:
                return Ended(held, how.Returned(), WorkerInfo())
            if held.key in self._owed.keys:
                return owed(held)
        if envelope.id is None:
            envelope.id = uuid.uuid4().hex
        return self._served(held)

    def connected(self, now: float) -> None:
        """A connection is there: what was lost with an earlier one may come back.

        Args:
            now: monotonic seconds.
        """
        self._overdue_at = now + OVERDUE

    def overdue(self, now: float) -> list[Held]:
        """Those that were lost and have ended, and don't come back; then they are forgotten."""
        if now < self._overdue_at or not self._lost:
            return []
        found = [held for alike in self._lost.values() for held in alike if held.outcome is not None]
        self.forget(found)
        self._overdue_at = now + 1.0  # others may end later
        return found

    def lose(self, helds: Iterable[Held]) -> None:
        """The connection is lost: these are executing or have ended, and will be delivered again."""
        self._overdue_at = float("inf")
        for held in helds:
            if not held.lost:  # else with an earlier connection
                held.lost = True
                self._lost.setdefault(held.key, []).append(held)  # foreign ones may be alike

    def forget(self, helds: Iterable[Held]) -> None:
        """These are lost no more, or nobody executes them: then they are new when they are delivered again."""
        for held in helds:
            alike = self._lost[held.key]
            alike.remove(held)
            if not alike:
                del self._lost[held.key]

    def settled(self, keys: list[bytes], *, remember: bool) -> None:
        """These are settled, and no longer owed; `remember` where the acknowledgement may get lost."""
        self._owed.charged(keys)
        if remember:
            self._settled.update(dict.fromkeys(keys))
            while len(self._settled) > REMEMBERED:
                self._settled.popitem(last=False)

    def owe(self, keys: Iterable[bytes]) -> None:
        """Attempts that a dead pool of another instance left open: charged when their messages come."""
        self._owed.add(list(keys))

    def _found(self, known: Held, delivery: Delivery) -> Ended | None:
        self.forget([known])
        known.delivery, known.lost = delivery, False
        if known.outcome is None:
            return None
        return Ended(known, known.outcome, WorkerInfo(socket.gethostname()))

    def _served(self, held: Held) -> Held | Ended:
        topic = held.envelope.topic
        if held.delivery.damage is not None:
            error = Error("DecodeError", held.delivery.damage)
            return Ended(held, how.Invalid(error), WorkerInfo(socket.gethostname()))
        if matches(self._subscriptions[held.subscription].topic, topic):
            return held
        text = f"{held.delivery.queue} doesn't serve the topic {topic[:200]!r}"
        return Ended(held, how.Unhandled(Error("Unhandled", text)), WorkerInfo(socket.gethostname()))
