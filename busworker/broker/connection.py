"""From a URL to a kombu connection, and from kombu's errors to ours."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import amqp.exceptions as refused
import kombu
import msgspec
from kombu.exceptions import KombuError

from busworker.errors import BrokerUnavailable, ConfigurationError, TopologyMismatch
from busworker.urls import hide_password

EMBEDDED = {
    "filesystem": "busworker.transports:FilesystemTransport",
    "memory": "busworker.transports:MemoryTransport",
}
AMQP = ("amqp", "amqps")
CONNECT_TIMEOUT = 5
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


def connect(broker: Broker, *, claim_file: str | None = None, timeout: float = CONNECT_TIMEOUT) -> kombu.Connection:
    """A new connection, established within about `timeout` seconds.

    Raises:
        BrokerUnavailable: it can't be had now.
        ConfigurationError: the broker refuses us for good (credentials, virtual host).
    """
    with translated(broker):
        connection = _made(broker, claim_file, timeout)
        # `connect` pauses 2 s before a second try; our callers choose their own pauses.
        connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
        return connection


@contextmanager
def translated(broker: Broker) -> Generator[None, None, None]:
    """Turns what kombu and py-amqp raise into our errors."""
    try:
        yield
    except refused.AccessRefused as error:
        raise ConfigurationError(
            f"broker {broker} refuses us: {_said(error)}; check user, password and rights"
        ) from error
    except refused.NotAllowed as error:
        raise ConfigurationError(f"broker {broker} refuses us: {_said(error)}; check the virtual host") from error
    except refused.PreconditionFailed as error:
        raise TopologyMismatch(
            f"broker {broker}: {_said(error)}; remove that queue or exchange once it is empty"
        ) from error
    except (refused.AMQPError, KombuError, OSError, AttributeError) as error:
        # py-amqp sometimes raises AttributeError when a connection is lost (kombu/transport/pyamqp.py says so).
        raise BrokerUnavailable(f"broker {broker} can't be used: {_said(error)}") from error


def _made(broker: Broker, claim_file: str | None, timeout: float) -> kombu.Connection:
    if broker.embedded:
        options = {} if claim_file is None else {"claim_file": claim_file}
        return kombu.Connection(broker.url, transport=EMBEDDED[broker.scheme], transport_options=options)
    # Without a name to compare, py-amqp takes any certificate of a known authority for the broker's.
    tls: Any = {"server_hostname": urlsplit(broker.url).hostname} if broker.scheme == "amqps" else False
    connect_timeout: Any = timeout  # kombu says int, and means float too
    return kombu.Connection(broker.url, connect_timeout=connect_timeout, ssl=tls)


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


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
