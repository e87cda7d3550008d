"""Which faults a seed brings, and when. Pure: the same seed gives the same schedule."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.support.chaos.history import Limits

CHANNELS = ("audit", "relay", "tail")
LIMITS = Limits(max_attempts=5, time_limit=1.5, kill_after=0.5, workers=dict.fromkeys(CHANNELS, 2))
"""As `shop.py` declares them."""
PROCESSES = ("worker", "consumer", "supervisor", "tree")
BEYOND_LIMITS = LIMITS.time_limit + LIMITS.kill_after + 1.0
DECK = (
    *(("kill", target) for target in (*PROCESSES, "worker", "consumer")),
    *(("stop", target) for target in PROCESSES),
    ("full", "disk"),
)
"""Every kind comes as often as it stands here, in an order of chance, before any comes again."""
BETWEEN = (0.03, 0.85)
"""The part of the work in which faults begin: at the end there is nothing to disturb."""


@dataclass(frozen=True)
class Step:
    """One fault of the schedule.

    Attributes:
        after: the number of lines of history after which it comes.
        seconds: how long it lasts; 0 for a kill.
        within: what else is killed while it lasts.
    """

    after: int
    kind: str
    target: str
    channel: str
    seconds: float = 0.0
    within: str = ""


def schedule(seed: int, faults: int, lines: int, *, disk: bool) -> list[Step]:
    """The faults of a seed, spread over a history of so many lines; `disk`: it may be filled."""
    chance = random.Random(seed)
    moments = sorted(chance.sample(range(int(lines * BETWEEN[0]), int(lines * BETWEEN[1])), faults))
    cards: list[tuple[str, str]] = []
    while len(cards) < faults:
        deck = [card for card in DECK if disk or card[0] != "full"]
        cards += chance.sample(deck, len(deck))
    return [_step(after, *card, chance) for after, card in zip(moments, cards, strict=False)]


def _step(after: int, kind: str, target: str, chance: random.Random) -> Step:
    channel = chance.choice(CHANNELS)
    if kind == "kill":
        return Step(after, kind, target, channel)
    within = chance.choice(["", "", "worker", "consumer", "supervisor", "tree"])
    if (kind, target) == ("stop", "tree"):
        return Step(after, kind, target, channel, BEYOND_LIMITS)
    short = chance.uniform(0.2, 1.0)
    return Step(after, kind, target, channel, BEYOND_LIMITS if chance.random() < 0.25 else short, within)
