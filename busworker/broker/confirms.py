"""What was published on a kombu_channel and isn't confirmed yet (RabbitMQ, "Publisher Confirms"). Pure.

Confirms come in any order, one by one or for all up to a number. What no queue takes is returned first, and then
confirmed like the others: only who remembers the return knows that it wasn't stored.
"""

from __future__ import annotations

import msgspec

from busworker.message import Outgoing


class Batch(msgspec.Struct, eq=False):
    """Messages that belong together.

    Attributes:
        left: how many aren't answered yet.
        refusal: why one was not stored; None: so far all are.
        refused: those that were not stored, as they were meant.
    """

    left: int
    refusal: str | None = None
    refused: list[Outgoing] = []


class _Sent(msgspec.Struct, gc=False):
    outgoing: Outgoing
    meant: Outgoing
    batch: Batch
    at: float
    came_back: bool = False


class Confirms:
    """Numbers what is published, from 1, as the broker does."""

    def __init__(self) -> None:
        self._number = 0
        self._open: dict[int, _Sent] = {}
        self._complete: list[Batch] = []

    @property
    def left(self) -> int:
        """How many messages aren't answered yet."""
        return len(self._open)

    @property
    def oldest(self) -> tuple[float, str] | None:
        """When that was sent which has waited longest for its answer, and where to; None if nothing waits."""
        for sent in self._open.values():  # in the order of their numbers
            return sent.at, _target(sent.outgoing)
        return None

    def sent(self, outgoing: Outgoing, batch: Batch, meant: Outgoing | None = None, *, now: float) -> None:
        """Call for each publish, in the order in which they are sent.

        Args:
            outgoing: what was sent.
            batch: what it belongs to.
            meant: what would be sent again, if that is something else.
            now: monotonic seconds.
        """
        self._number += 1
        self._open[self._number] = _Sent(outgoing, meant or outgoing, batch, now)

    def confirmed(self, number: int, multiple: bool, stored: bool) -> None:
        """The broker's answer."""
        for one in self._up_to(number) if multiple else [number]:
            sent = self._open.pop(one, None)
            if sent is not None:
                if not stored:
                    sent.batch.refusal = sent.batch.refusal or f"it refused a message to {_target(sent.outgoing)}"
                if sent.came_back or not stored:
                    sent.batch.refused.append(sent.meant)
                sent.batch.left -= 1
                if not sent.batch.left:
                    self._complete.append(sent.batch)

    def returned(self, why: str, exchange: str, routing_key: str, body: bytes) -> None:
        """A message came back; which, its content tells. Of several that are equal none counts as stored."""
        for sent in self._open.values():
            one = sent.outgoing
            if one.exchange == exchange and one.routing_key == routing_key and one.body == body:
                sent.came_back = True
                sent.batch.refusal = f"{_target(one)} leads to no queue ({why})"

    def unanswered(self, batch: Batch) -> list[Outgoing]:
        """Those of a batch that may be stored or not, as they were meant; no answer to them counts any more."""
        numbers = [number for number, sent in self._open.items() if sent.batch is batch]
        return [self._open.pop(number).meant for number in numbers]

    def complete(self) -> list[Batch]:
        """Those of which all messages have been answered since the last call."""
        complete, self._complete = self._complete, []
        return complete

    def _up_to(self, number: int) -> list[int]:
        found: list[int] = []
        for one in self._open:  # in the order of their numbers
            if one > number:
                break
            found.append(one)
        return found


def _target(outgoing: Outgoing) -> str:
    return f"{outgoing.routing_key!r} in exchange {outgoing.exchange!r}"
