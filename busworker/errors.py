"""Every error busworker raises, named after what its receiver should do.

```
BusworkerError
├─ ConfigurationError      halt: a setting, name or declaration is wrong (exit 78; bad names on the command line: 2)
├─ ApplicationError        halt: the application can't be imported or doesn't fit together (exit 78)
├─ BrokerError
│  ├─ BrokerUnavailable    try again with backoff: nothing was stored by the call that raised it (exit 69)
│  ├─ TopologyMismatch     halt: what the broker holds differs; says which argument
│  └─ PublishFailed        the caller decides: the message may or may not be stored (see `Receipt.state`)
├─ MessageError
│  ├─ EncodeError          the caller: the event doesn't fit its topic, or its body is over the limit (exit 65)
│  └─ DecodeError          the consumer: dead-letter the message as `invalid`
├─ AlreadyRunning          leave the other one alone: the same service runs already (exit 73)
├─ NothingMatches          name something else: nothing is what was named (exit 66)
├─ ProtocolError           drop that link: what came over it makes no sense
└─ ControlError            the command prints it
```

`Retry` and `Reject` are raised by handlers, `TimeLimitExceeded` is raised into them; they are no errors of ours.
"""

from __future__ import annotations


class BusworkerError(Exception):
    """The root of all errors that busworker raises itself."""


class ConfigurationError(BusworkerError):
    """A setting, a name, a URL or a declaration is wrong; the message says which and what to write instead."""


class ApplicationError(BusworkerError):
    """The application can't be imported, or what it declares doesn't fit together."""


class BrokerError(BusworkerError):
    """Something about the broker."""


class BrokerUnavailable(BrokerError):
    """The broker or the store can't be used now; nothing was stored by the call that raised this."""


class TopologyMismatch(BrokerError):
    """A queue or an exchange exists with other arguments; trying again doesn't help."""


class AlreadyStored(BrokerError):
    """A message with that id was stored before; nothing was stored now."""


class PublishFailed(BrokerError):
    """A receipt ended as `failed` (not stored) or `unknown` (it can't be told)."""


class MessageError(BusworkerError):
    """Something about one message."""


class EncodeError(MessageError):
    """An event doesn't fit the type of its topic, or its body is over the limit. Nothing was published."""


class DecodeError(MessageError):
    """A body or an envelope doesn't fit the type of its topic."""


class AlreadyRunning(BusworkerError):
    """A service with the same name, broker and instance runs already; nothing was started."""


class NothingMatches(BusworkerError):
    """What was named on the command line (a message, a subscription) isn't there; nothing was changed."""


class ProtocolError(BusworkerError):
    """Bytes on a link that are no frame of ours, or not in this place."""


class ControlError(BusworkerError):
    """A running service answered a command with an error, or didn't answer in time."""


class Retry(Exception):
    """Raised by a handler: this attempt failed, try the message again.

    Args:
        reason: what to write into the log and, at the last attempt, into the dead letter.
        after: seconds until the next attempt, 0 to 86400, rounded up to the ladder of retry queues;
            None takes the delay of the subscription's `RetryPolicy`.
    """

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        super().__init__(reason or "the handler asked for a retry")
        if after is not None and not 0 <= after <= 86_400:
            raise ValueError(f"Retry(after={after!r}): give seconds from 0 to 86400")
        self.after = after


class Reject(Exception):
    """Raised by a handler: this message goes to the dead letters now, whatever attempts are left."""

    def __init__(self, reason: str = "rejected by the handler") -> None:
        super().__init__(reason)


class TimeLimitExceeded(BaseException):
    """Raised into a handler when its `time_limit` is over.

    A BaseException, so that `except Exception` in a handler doesn't swallow it.
    """
