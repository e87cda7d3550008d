"""A published event as data: what somebody who listens shows of it. Pure.

Anybody can publish, so every property may be missing or odd; what can't be read is null.
"""

from __future__ import annotations

import msgspec

from busworker.letters import read_letter
from busworker.message import Delivery, as_text, read_envelope


class Published(msgspec.Struct, frozen=True):
    """An event in the format of `--json` (docs/reference/cli.md)."""

    id: str | None
    topic: str
    published_at: str | None
    service: str | None
    correlation_id: str | None
    headers: dict[str, object]
    body: object
    body_base64: str | None


def read_published(delivery: Delivery) -> Published:
    """What a message says; it raises nothing, whatever that holds, and the event can be written as JSON."""
    letter, envelope = read_letter(delivery), read_envelope(delivery)
    service = delivery.properties.get("app_id")
    return Published(
        letter.id,
        letter.topic,
        letter.published_at,
        None if service is None else as_text(service),
        envelope.correlation_id,
        letter.headers,
        letter.body,
        letter.body_base64,
    )
