"""How long dead letters and unrouted messages are kept. Pure."""

from __future__ import annotations

import msgspec


class Retention(msgspec.Struct, frozen=True):
    """Limits beyond which the oldest go; None: no limit of ours.

    Attributes:
        dead_max_age: seconds after its death that a dead letter is kept.
        dead_max_count: how many dead letters a subscription keeps.
        unrouted_max_age: seconds after its publishing that a message nobody subscribed to is kept.
    """

    dead_max_age: float | None = None
    dead_max_count: int | None = None
    unrouted_max_age: float | None = None

    @property
    def unlimited(self) -> bool:
        """Whether everything is kept."""
        return self == Retention()
