"""What a broker says when a queue or an exchange can't be declared because it exists otherwise. Pure.

RabbitMQ cuts its text at 255 bytes (AMQP 0-9-1 shortstr), so of a long name, what follows may be missing. Each form was
tried on 3.10.8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from busworker.broker import topology
from busworker.brokers import QUEUE_TYPES

DELIVERY_LIMIT = "x-delivery-limit"

_SAID = re.compile(
    r"PRECONDITION_FAILED - (?P<how>inequivalent|invalid) arg '(?P<argument>[a-z_-]+)' for (?:queue|exchange) "
    r"(?P<rest>.*)",
    re.DOTALL,
)
# From the last of these words on: a name may hold any of them.
_CURRENT = re.compile(r".* but current is (?:(?P<none>none)|the value '(?P<value>.*)' of type '[^']*'|'(?P<plain>.*)')")
_NUMBER = re.compile(r"-?[0-9]{1,18}")


class Mismatch(msgspec.Struct, frozen=True):
    """What differs, as the broker says it.

    Attributes:
        argument: of the declaration: `x-queue-type`, `durable`, `type`.
        current: its value in the broker; None: it isn't set.
        told: whether `current` was told at all.
        invalid: the broker doesn't take the argument or its value; nothing needs to exist.
    """

    argument: str
    current: str | None = None
    told: bool = False
    invalid: bool = False


def read(text: str) -> Mismatch | None:
    """What the text of error 406 says of a declaration; None if it is about something else."""
    said = _SAID.search(text)
    if said is None:
        return None
    if said["how"] == "invalid":
        return Mismatch(said["argument"], invalid=True)
    current = _CURRENT.fullmatch(said["rest"])
    if current is None:
        return Mismatch(said["argument"])
    value = None if current["none"] else current["value"] if current["value"] is not None else current["plain"]
    return Mismatch(said["argument"], value, told=True)


def explain(kind: str, name: str, wanted: Mapping[str, object], found: Mismatch) -> str:
    """One line: which thing, which argument, what is there, what is wanted, and what to do.

    Args:
        kind: `queue` or `exchange`.
        name: its name.
        wanted: all that it was to be declared with, `durable` and an exchange's `type` among it.
        found: what the broker said.
    """
    ours = _value(wanted.get(found.argument))
    if found.invalid:
        return (
            f"{kind} {name!r} can't be declared with {found.argument} {ours}, which the broker doesn't take: use "
            "RabbitMQ 3.10 or later"
        )
    there = _value(found.current) if found.told else "otherwise"
    return f"{kind} {name!r} exists with {found.argument} {there}, not {ours}: {_way_out(kind, name, found)}"


def without_limit(arguments: Mapping[str, object], found: Mismatch) -> dict[str, object] | None:
    """The arguments with the delivery limit that a queue has; None if another one differs, or it isn't known which."""
    if found.argument != DELIVERY_LIMIT or found.invalid or not found.told:
        return None
    others = {key: value for key, value in arguments.items() if key != DELIVERY_LIMIT}
    if found.current is None:
        return others
    return {**others, DELIVERY_LIMIT: int(found.current)} if _NUMBER.fullmatch(found.current) else None


def _way_out(kind: str, name: str, found: Mismatch) -> str:
    if kind == "exchange":
        return "delete it; it is then made anew, with its bindings as services start"
    remove = "delete it once it is empty (rabbitmqctl delete_queue NAME --if-empty); it is then made anew"
    if found.argument == "x-queue-type" and found.current in QUEUE_TYPES and topology.subscription_of(name):
        return f"give ?queue_type={found.current} in the broker's URL, or {remove}"
    return remove


def _value(value: object) -> str:
    if value is None:
        return "none"
    return repr(str(value).lower() if isinstance(value, bool) else str(value))
