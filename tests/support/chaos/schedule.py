"""Which faults a seed brings, and when. Pure: the same seed gives the same schedule."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from tests.support.chaos.history import Limits

Deck: TypeAlias = Sequence[tuple[str, str]]

CHANNELS = ("audit", "relay", "tail")
LIMITS = Limits(max_attempts=5, time_limit=1.5, kill_after=0.5, workers=dict.fromkeys(CHANNELS, 2))
"""As `shop.py` declares them."""
DELAYS = (1,)
"""Seconds that its retries wait, other than 0."""
PROCESSES = ("worker", "consumer", "supervisor", "tree")
BEYOND_LIMITS = LIMITS.time_limit + LIMITS.kill_after + 1.0
DECK = (
    *(("kill", target) for target in (*PROCESSES, "worker", "consumer")),
    *(("stop", target) for target in PROCESSES),
    ("full", "disk"),
)
"""Every kind comes as often as it stands here, in an order of chance, before any comes again."""
AMQP_DECK = (
    *(card for card in DECK if card != ("full", "disk")),
    *(("cut", "connections"),) * 10,
    ("stop", "broker"),
    ("kill", "broker"),
)
"""With a broker that is killed once for ten times that all connections with it are cut."""
BETWEEN = (0.03, 0.85)
"""The part of the work in which faults begin: at the end there is nothing to disturb."""


@dataclass(frozen=True)
class Step:
    """One fault of the schedule.

    Attributes:
        after: the number of lines of history after which it comes.
        seconds: how long it lasts; 0 for a kill of ours. A broker that was killed then boots.
        within: what else is killed while it lasts.
    """

    after: int
    kind: str
    target: str
    channel: str
    seconds: float = 0.0
    within: str = ""


def schedule(seed: int, faults: int, lines: int, deck: Deck) -> list[Step]:
    """The faults of a seed from that deck, spread over a history of so many lines."""
    chance = random.Random(seed)
    moments = sorted(chance.sample(range(int(lines * BETWEEN[0]), int(lines * BETWEEN[1])), faults))
    cards: list[tuple[str, str]] = []
    while len(cards) < faults:
        cards += chance.sample(deck, len(deck))
    steps = (_step(after, *card, chance) for after, card in zip(moments, cards, strict=False))
    dealt = {target for _, target in deck}
    return [step if step.within in dealt else replace(step, within="") for step in steps]


def _step(after: int, kind: str, target: str, chance: random.Random) -> Step:
    channel = chance.choice(CHANNELS)
    if kind == "kill" and target != "broker":
        return Step(after, kind, target, channel)
    within = chance.choice(["", "", "worker", "consumer", "supervisor", "tree"])
    if (kind, target) == ("stop", "tree"):
        return Step(after, kind, target, channel, BEYOND_LIMITS)
    short = chance.uniform(0.2, 1.0)
    if kind == "kill":
        return Step(after, kind, target, channel, short / 4, within)
    if kind == "cut":
        return Step(after, kind, target, channel, short / 4, chance.choice([within, "", ""]))
    return Step(after, kind, target, channel, BEYOND_LIMITS if chance.random() < 0.25 else short, within)
