"""What a played worker tells of an attempt."""

from __future__ import annotations

from busworker import outcome as how
from busworker.message import BUS_EXCHANGE, Outgoing
from busworker.outcome import Error
from tests.support.life.table import End

ERROR = Error("ValueError", "as the model wants it")


def outcome_of(end: End, after: int | None, children: tuple[bytes, ...]) -> how.Outcome:
    """What a worker sends; `children` are the bodies that the handler has published."""
    match end:
        case "returned":
            outgoing = (Outgoing(BUS_EXCHANGE, "b.child", one, {"message_id": one.decode()}, {}) for one in children)
            return how.Returned(tuple(outgoing))
        case "exception":
            return how.Raised(ERROR, after)
        case "rejected":
            return how.Rejected(ERROR)
        case "invalid":
            return how.Invalid(ERROR)
        case "time_limit":
            return how.TimedOut(ERROR)
        case "unhandled":
            return how.Unhandled(ERROR)
        case "memory_limit" | "crash":
            raise AssertionError(f"no worker tells of its own {end}")
