"""What a log record tells beside its text: what happened, to which service, channel and slot, and with which message.

Where one of ours is logged, `event` says what is known there; the rest is known of the process, and of the attempt to
which the running code belongs, as far as its context variables reach. The names are in docs/reference/logs.md.
"""

from __future__ import annotations

import logging
import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, TypeAlias, TypedDict, Unpack, cast

if TYPE_CHECKING:
    from busworker.message import Message

Value: TypeAlias = str | int | float | None

FIELDS: Final = (
    "event", "service", "channel", "slot", "topic", "message_id", "attempt", "duration", "reason", "repeated",
)  # fmt: skip
NO_EVENT = "log"
"""The event of a record that has none."""
_TOLD = "busworker"
_ROLE = re.compile(r"\w+ (?P<service>[a-z0-9_-]+)(?:\.(?P<channel>[a-z0-9_-]+))?(?:/(?P<slot>\d+))?")

message: ContextVar[Message | None] = ContextVar("busworker_log_message", default=None)
"""The message of the attempt that the running code belongs to."""
_role = "busworker"
_process: dict[str, Value] = {}


class _Ours(dict[str, Value]):
    """What `event` gave; an application may have something else under that name."""


class Told(TypedDict, total=False):
    """What the place that logs knows.

    Attributes:
        channel: the channel's name.
        slot: the worker's, from 1.
        topic: the message's.
        message_id: its id.
        attempt: its number, from 1.
        duration: seconds that the handler took.
        reason: why, as a word: for a failed attempt a dead letter's (`exception`, `crash`, …).
        role: of the process that it is about, where that isn't the one that logs.
        fault: what makes it equal to others of that event and channel, so that a `fault_log` may count it.
    """

    channel: str | None
    slot: int | None
    topic: str | None
    message_id: str | None
    attempt: int | None
    duration: float | None
    reason: str | None
    role: str
    fault: str


def event(name: str, /, **told: Unpack[Told]) -> dict[str, object]:
    """The `extra` of a log call: the name of what happened, and what is known of it."""
    # In one attribute: a record can't be given what it has already, as by a factory of the application's.
    return {_TOLD: _Ours(cast("dict[str, Value]", {"event": name, **told}))}


def told(record: logging.LogRecord) -> dict[str, Value]:
    """What `event` gave the record; {}: nothing."""
    found: object = getattr(record, _TOLD, None)
    return found if isinstance(found, _Ours) else {}


def replace(record: logging.LogRecord, **values: Value) -> None:
    """Changes what `event` gave the record."""
    setattr(record, _TOLD, _Ours(told(record) | values))


def set_role(role: str) -> None:
    """Says which process this is, `KIND SERVICE[.CHANNEL[/SLOT]]`; for a child right after its fork."""
    global _role, _process
    _role, _process = role, _place(role)


def role(record: logging.LogRecord) -> str:
    """The process that a record is from."""
    return str(told(record).get("role", _role))


def known(record: logging.LogRecord) -> dict[str, Value]:
    """The value of each of `FIELDS`, None where it isn't known. For a record that is logged by the running code."""
    found: dict[str, Value] = dict.fromkeys(FIELDS)
    own: object = getattr(record, "event", None)
    found["event"] = own if isinstance(own, str) else NO_EVENT
    given = told(record)
    found |= _place(role(record)) if "role" in given else _process
    if (one := message.get()) is not None:
        found["topic"] = one.topic
        found["message_id"] = one.id
        found["attempt"] = one.attempt
    found.update((name, value) for name, value in given.items() if name in found)
    return found


class LogFields(logging.Filter):
    """Gives each log record the attributes of `docs/reference/logs.md`, for an application's own logging. All pass.

    For a handler, whose formatter then may use `%(channel)s`, `%(slot)s`, `%(topic)s`, `%(message_id)s`, `%(attempt)s`
    and the others, also for records from outside an attempt, where they are None.

    Guarantees:
        What a record has already under such a name stays.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in known(record).items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


def _place(role: str) -> dict[str, Value]:
    match = _ROLE.fullmatch(role)
    if match is None:
        return {}
    slot = match["slot"]
    return {"service": match["service"], "channel": match["channel"], "slot": None if slot is None else int(slot)}
