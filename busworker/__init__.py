"""busworker: an event bus and multiprocess worker framework.

The public names, imported lazily: a command that needs only one of them doesn't pay for the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from busworker.bus import Bus
    from busworker.channel import Channel
    from busworker.errors import (
        ApplicationError,
        BrokerError,
        BrokerUnavailable,
        BusworkerError,
        ConfigurationError,
        ControlError,
        DecodeError,
        EncodeError,
        MessageError,
        ProtocolError,
        PublishFailed,
        Reject,
        Retry,
        TimeLimitExceeded,
        TopologyMismatch,
    )
    from busworker.log_fields import LogFields
    from busworker.message import Message
    from busworker.payload import Json
    from busworker.receipt import Receipt, Receipts
    from busworker.retry import RetryPolicy
    from busworker.topic import Pattern, Topic

__version__ = "0.1.0"

__all__ = [
    "ApplicationError",
    "BrokerError",
    "BrokerUnavailable",
    "Bus",
    "BusworkerError",
    "Channel",
    "ConfigurationError",
    "ControlError",
    "DecodeError",
    "EncodeError",
    "Json",
    "LogFields",
    "Message",
    "MessageError",
    "Pattern",
    "ProtocolError",
    "PublishFailed",
    "Receipt",
    "Receipts",
    "Reject",
    "Retry",
    "RetryPolicy",
    "TimeLimitExceeded",
    "Topic",
    "TopologyMismatch",
    "__version__",
]

_HOMES = {
    "bus": ("Bus",),
    "channel": ("Channel",),
    "log_fields": ("LogFields",),
    "message": ("Message",),
    "payload": ("Json",),
    "receipt": ("Receipt", "Receipts"),
    "retry": ("RetryPolicy",),
    "topic": ("Pattern", "Topic"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'busworker' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"busworker.{_HOME_OF.get(name, 'errors')}"), name)
    globals()[name] = value
    return value
