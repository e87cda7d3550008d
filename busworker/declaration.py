"""What an application declares, as plain data: what supervisor and consumer work from. Pure.

It holds no handler and no event type, so it can be shown, compared and sent to another process.
"""

from __future__ import annotations

import msgspec


class SubscriptionSpec(msgspec.Struct, frozen=True):
    """A topic (or pattern) handled in a channel. Durations are seconds."""

    topic: str
    pattern: bool
    max_attempts: int
    delays: tuple[float, ...]
    time_limit: float | None
    kill_after: float

    def delay_after(self, attempt: int) -> float:
        """Seconds to wait after a failed attempt (1-based); with `max_attempts` this is a `settlement.Policy`."""
        return self.delays[min(attempt, len(self.delays)) - 1]


class ChannelSpec(msgspec.Struct, frozen=True):
    """A channel and the size of its pool. `memory_limit` is bytes of RSS of a worker."""

    name: str
    processes: int
    concurrency: int
    memory_limit: int | None
    max_messages: int | None
    subscriptions: tuple[SubscriptionSpec, ...]


class ServiceSpec(msgspec.Struct, frozen=True):
    """A service with its channels; every subscription of a channel keeps its place in the tuple."""

    name: str
    channels: tuple[ChannelSpec, ...]

    def channel(self, name: str) -> ChannelSpec | None:
        """The channel of that name, if there is one."""
        return next((channel for channel in self.channels if channel.name == name), None)
