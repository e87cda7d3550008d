"""What RabbitMQ may have twice, or a new consumer not know again, after a fault that met something unconfirmed.

The exceptions of docs/explanation/guarantees.md, found for each message in what happened to it. Everything else is
judged as on the embedded store, where there are no such. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tests.support.chaos.history import Execution, Fault, Key, Story

CONFIRMED_WITHIN = 0.5
"""Seconds in which an outcome's copies are confirmed and its message is acknowledged, on a busy machine, while there is
a broker."""
REDELIVERED_WITHIN = 2.0
"""Seconds in which a cut connection is made anew, and what was not acknowledged comes again."""
BACK = 5.0
"""Seconds that a consumer or publisher may wait before it tries again to reach a broker that was away for long."""
NEVER = (float("inf"), float("-inf"))
MOST_HELD = 16
"""Messages of a channel that a consumer holds at most, with two workers and handlers of 1 to 3 ms: its prefetch."""


class Copies:
    """Why a message may exist more than once, or be delivered as if it were new."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._messages = story.by_message()
        self._breaks = [fault for fault in story.faults if fault.of_broker]
        self._found: dict[Key, Counter[str]] = {}

    def why(self, key: Key) -> Counter[str]:
        """The reasons, each with how often there was one; none on the embedded store, which settles at one blow.

        "published twice": its publisher's confirm was lost. "sent twice": the confirm of its retry or dead letter was,
        or that of the handler which published it. "acknowledgement lost": the consumer, which remembers what it has
        settled, was killed before the broker had done its acknowledgement, which nobody confirms, or before what was
        lost with an earlier connection came again. A killed broker alone is no reason: a quorum queue has written down
        what it delivers, so that this comes again marked as redelivered.
        """
        if key not in self._found:
            self._found[key] = Counter(self._reasons(key)) if self._story.published else Counter()
        return self._found[key]

    def most(self) -> int:
        """Of how many messages the faults may have met what was not yet confirmed, after they were published."""
        holders = len(self._story.limits.workers) * MOST_HELD
        return holders * sum(fault.of_broker or fault.kind == "kill" for fault in self._story.faults)

    def uncharged(self) -> Counter[str]:
        """How many executions followed one of the same or a later attempt, by what may be the reasons."""
        found = Counter[str]()
        for key, executions in self._messages.items():
            if again := sum(not fresh for fresh in _fresh(executions)):
                found[" or ".join(sorted(self.why(key))) or "NO REASON"] += again
        return found

    # Reasons

    def _reasons(self, key: Key) -> Iterator[str]:
        executions = self._messages.get(key, [])
        if key.channel == "tail":
            yield from self._of_handler(Key("relay", key.name))
        else:
            yield from (
                "published twice" for _ in self._hits(self._breaks, *self._story.published.get(key.name, NEVER))
            )
        for place, one in enumerate(executions):
            later = executions[place + 1].begun if place + 1 < len(executions) else float("inf")
            until = self._unconfirmed(one, later)
            if one.outcome != "returned":
                yield from ("sent twice" for _ in self._resent(one, until))
            if one.ended is not None:
                yield from ("acknowledgement lost" for _ in self._hits(self._kills(key.channel), one.ended, until))
            for fault in self._hits(self._breaks, one.begun, until):
                if self._hits(self._kills(key.channel), fault.since, back(fault) + REDELIVERED_WITHIN):
                    yield "acknowledgement lost"

    def _resent(self, one: Execution, until: float) -> list[Fault]:
        """What may have come between the confirm of a failed attempt's copy and its acknowledgement."""
        hits = self._hits(self._doubling(one.key.channel), one.begun, until)
        kills = [fault for fault in hits if fault.kind == "kill" and not fault.of_broker]
        if one.ended is None and kills and not self._died_alone(one):
            hits.remove(min(kills, key=lambda fault: fault.since))  # which has cut it, and left nothing to send
        return hits

    def _died_alone(self, one: Execution) -> bool:
        """Whether its worker may have died without its consumer."""
        own = any(fault.target == "worker" and fault.pid == one.pid for fault in self._story.faults)
        return own or one.deed in ("crash", "lethal", "stubborn")

    def _of_handler(self, parent: Key) -> Iterator[str]:
        returned = [one for one in self._messages.get(parent, []) if one.outcome == "returned"]
        yield from ("sent twice" for _ in returned[1:])
        for one in returned:
            since = one.ended or one.begun
            until = self._unconfirmed(one, since)
            yield from ("sent twice" for _ in self._hits(self._doubling(parent.channel), since, until))

    def _hits(self, faults: Iterable[Fault], since: float, until: float) -> list[Fault]:
        return [fault for fault in faults if fault.overlaps(since, until)]

    def _doubling(self, channel: str) -> list[Fault]:
        """What may come between a confirm and an acknowledgement of that channel's consumer."""
        return [*self._breaks, *self._kills(channel)]

    def _kills(self, channel: str) -> list[Fault]:
        """Those of that channel's consumer."""
        kills = (fault for fault in self._story.faults if fault.kind == "kill" and not fault.of_broker)
        return [fault for fault in kills if fault.target != "worker" and fault.channel in ("", channel)]

    def _unconfirmed(self, one: Execution, later: float) -> float:
        """Until when its outcome may be unconfirmed: that time stands still while nothing can be confirmed. The
        outcome of one that was cut is known by the next execution, `later`."""
        until = (later if one.ended is None else one.ended) + CONFIRMED_WITHIN
        for fault in sorted(self._story.faults, key=lambda fault: fault.since):
            if (fault.kind == "stop" or fault.target == "broker") and fault.overlaps(one.begun, until):
                until = max(until, back(fault) + CONFIRMED_WITHIN)
        return until


def back(fault: Fault) -> float:
    """When all are connected again after it."""
    return fault.until + (BACK if fault.of_broker and fault.kind == "kill" else 0.0)


def _fresh(executions: Sequence[Execution]) -> Iterator[bool]:
    """For each execution, whether its attempt is later than all before."""
    latest = 0
    for one in executions:
        yield one.attempt > latest
        latest = max(latest, one.attempt)
