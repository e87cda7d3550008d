"""What is written down during a chaos: executions by the handlers, faults by whoever causes them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple


class Key(NamedTuple):
    """A message of a channel."""

    channel: str
    name: str


@dataclass(frozen=True)
class Execution:
    """One execution of a message. Times are of the system's monotonic clock."""

    key: Key
    attempt: int
    pid: int
    begun: float
    deed: str  # what the handler was to do: work, slow, raise, poison, crash, lethal, hang, stubborn
    ended: float | None = None  # None: it was cut
    outcome: str | None = None  # returned, or the name of the exception


@dataclass(frozen=True)
class Fault:
    """Something that was done to the service, from before it began until after it had ended."""

    kind: str  # kill, stop, full, cut
    target: str  # worker, consumer, supervisor, tree; disk; broker, connections
    since: float
    until: float
    channel: str = ""  # of a worker or consumer
    pid: int = 0  # of a worker

    @property
    def of_broker(self) -> bool:
        """Whether it was done to the broker or to the connections with it, and so to none of our processes."""
        return self.target in ("broker", "connections")

    def overlaps(self, since: float, until: float) -> bool:
        """Whether any of it lies in that time."""
        return self.since <= until and self.until >= since


@dataclass(frozen=True)
class Letter:
    """A dead letter, as `dead list` tells it."""

    key: Key
    reason: str
    attempts: int


@dataclass(frozen=True)
class Limits:
    """What the service under chaos was told."""

    max_attempts: int
    time_limit: float
    kill_after: float
    workers: dict[str, int]  # of each channel


@dataclass(frozen=True)
class Story:
    """All that is known after a chaos.

    Attributes:
        tried, confirmed: what was published, with and without those of which nobody knows.
        queued: what the queues still hold, waiting for a retry or not.
        published: from when until when the publisher of an order was at it, by its name; with AMQP only.
    """

    limits: Limits
    executions: Sequence[Execution]
    faults: Sequence[Fault]
    letters: Sequence[Letter]
    tried: frozenset[Key]
    confirmed: frozenset[Key]
    queued: frozenset[Key] = frozenset()
    published: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def by_message(self) -> dict[Key, list[Execution]]:
        """The executions of each message, in the order in which they began."""
        found: defaultdict[Key, list[Execution]] = defaultdict(list)
        for execution in sorted(self.executions, key=lambda one: one.begun):
            found[execution.key].append(execution)
        return found


def read(lines: Iterable[str]) -> list[Execution]:
    """The executions that a history tells of.

    Raises:
        ValueError: a line is not one that a handler writes.
    """
    found: list[Execution] = []
    running: dict[int, int] = {}
    for line in lines:
        kind, channel, name, attempt, pid, at, what = line.split(" ")
        begun = Execution(Key(channel, name), int(attempt), int(pid), float(at), what)
        if kind == "B":
            running[begun.pid] = len(found)
            found.append(begun)
            continue
        place = running.pop(begun.pid, None)
        if place is None or (found[place].key, found[place].attempt) != (begun.key, begun.attempt):
            raise ValueError(f"ends what its process had not begun: {line}")
        found[place] = replace(found[place], ended=begun.begun, outcome=what)
    return found
