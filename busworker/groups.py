"""Counts of dead letters that have something in common. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

from busworker.letters import DeadLetter

By: TypeAlias = Literal["reason", "error"]


class Group(msgspec.Struct):
    """The dead letters of a subscription with the same reason, or the same type of error.

    Attributes:
        subscription: None for unrouted messages.
        name: the reason, or the error's type; None for those without.
        count: how many.
        oldest: when the first of them died, RFC 3339; where that isn't known, was published; None if none says.
        newest: the same of the last one.
        message: the error's of the newest.
    """

    subscription: str | None
    name: str | None
    count: int = 0
    oldest: str | None = None
    newest: str | None = None
    message: str | None = None

    def add(self, letter: DeadLetter) -> None:
        """Counts one more."""
        self.count += 1
        moment = letter.dead_at or letter.published_at
        message = None if letter.error is None else letter.error.message
        if moment is not None:
            self.oldest = min(self.oldest or moment, moment)  # all are UTC and of one form, so text compares as time
        if self.message is None or (moment or "") >= (self.newest or ""):
            self.message = message
        if moment is not None:
            self.newest = max(self.newest or moment, moment)


def grouped(letters: Iterable[DeadLetter], by: By) -> list[Group]:
    """The groups of letters, the largest first. Holds no letter, only the groups."""
    groups: dict[tuple[str | None, str | None], Group] = {}
    for letter in letters:
        key = letter.subscription, _name(letter, by)
        groups.setdefault(key, Group(*key)).add(letter)
    return sorted(groups.values(), key=lambda group: (-group.count, group.subscription or "", group.name or ""))


def _name(letter: DeadLetter, by: By) -> str | None:
    if by == "reason":
        return letter.reason
    return None if letter.error is None else letter.error.type
