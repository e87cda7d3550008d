"""From a broker URL to the brokers it names. Pure; imports no kombu, so that a start can refuse a wrong one at once."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit, urlunsplit

import msgspec

from busworker.errors import ConfigurationError
from busworker.urls import hide_password

EMBEDDED = {
    "filesystem": "busworker.transports:FilesystemTransport",
    "memory": "busworker.transports:MemoryTransport",
}
AMQP = ("amqp", "amqps")
QUEUE_TYPES = ("quorum", "classic")


class Broker(msgspec.Struct, frozen=True):
    """A broker's URL, taken apart. `url` is what kombu gets; `queue_type` is None on the embedded engine."""

    url: str
    scheme: str
    queue_type: str | None

    def __str__(self) -> str:
        """The URL without its password: for errors."""
        return hide_password(self.url)

    @property
    def embedded(self) -> bool:
        """Whether it is the engine of this machine, with transactions and claims."""
        return self.scheme in EMBEDDED


def parse(url: str) -> list[Broker]:
    """The brokers of a URL: several, separated by `;`, are tried in turn.

    Raises:
        ConfigurationError: a scheme or an option doesn't exist, or the schemes differ.
    """
    brokers = [_parse_one(part.strip()) for part in url.split(";") if part.strip()]
    if not brokers or len({broker.scheme for broker in brokers}) > 1:
        raise ConfigurationError(
            f"broker {hide_password(url)!r}: give one URL, or several of one scheme with ; between"
        )
    return brokers


def _parse_one(url: str) -> Broker:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is none
    except ValueError:  # whose text may show a password
        raise ConfigurationError(
            f"broker {hide_password(url)!r} is no URL: check host and port, and write what is special in a password as "
            "%-codes"
        ) from None
    if parts.scheme in EMBEDDED:
        return Broker(url, parts.scheme, None)
    if parts.scheme not in AMQP or "://" not in url:
        raise ConfigurationError(
            f"broker {hide_password(url)!r} has no scheme we know: use filesystem:///folder, memory://name, "
            "amqp://host or amqps://host"
        )
    options = dict(parse_qsl(parts.query))
    queue_type = options.pop("queue_type", "quorum")
    if queue_type not in QUEUE_TYPES:
        raise ConfigurationError(f"queue_type={queue_type!r}: use quorum or classic")
    if options:
        # kombu would take each for an argument of its Connection, and raise TypeError.
        raise ConfigurationError(f"broker {hide_password(url)!r}: there is no option {min(options)!r}, only queue_type")
    return Broker(urlunsplit(parts._replace(netloc=parts.netloc or "localhost", query="")), parts.scheme, queue_type)
