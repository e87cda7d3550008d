"""The transport classes that kombu is given: how to connect, and which errors are whose."""

from __future__ import annotations

from typing import Any

import amqp.exceptions
from kombu.transport import base

from busworker.errors import BrokerUnavailable, TopologyMismatch
from busworker.transports.channel import Channel
from busworker.transports.connection import Connection
from busworker.transports.engine import location
from busworker.transports.engine.database import version
from busworker.transports.engine.failures import MissingEntity


class EmbeddedTransport(base.Transport):
    """A transport on the embedded engine.

    `transport_options={"claim_file": path}` ties the claims of its connections to a flock that somebody else holds on
    that file; what a dead predecessor with the same file had claimed comes back when a connection opens.
    """

    can_parse_url = True
    driver_type = "sqlite"
    driver_name = "busworker"
    client: Any
    connection_errors: Any = (BrokerUnavailable, amqp.exceptions.ConnectionError)
    recoverable_connection_errors = (BrokerUnavailable, amqp.exceptions.RecoverableConnectionError)
    channel_errors: Any = (amqp.exceptions.ChannelError, TopologyMismatch, MissingEntity)
    recoverable_channel_errors = (amqp.exceptions.RecoverableChannelError,)
    implements = base.Transport.implements.extend(
        asynchronous=True, heartbeats=False, exchange_type=frozenset(["direct", "fanout", "topic"])
    )

    def __init__(self, client: Any, **_: Any) -> None:
        self.client = client

    def establish_connection(self) -> Connection:
        """Opens the store that the URL names; makes it if it doesn't exist.

        Raises:
            BrokerUnavailable: it can't be used now.
            ConfigurationError: the URL is wrong.
        """
        options = self.client.transport_options or {}
        return Connection(self.client, location.parse(self.client.hostname), options.get("claim_file"))

    def create_channel(self, connection: Connection) -> Channel:
        """A new channel of a connection."""
        return connection.channel()

    def close_connection(self, connection: Connection) -> None:
        """Closes a connection; what it held goes back."""
        connection.close()

    def drain_events(self, connection: Connection, timeout: float | None = None, **_: Any) -> None:
        """See `Connection.drain_events`."""
        connection.drain_events(timeout=timeout)

    def register_with_event_loop(self, connection: Connection, loop: Any) -> None:
        """Has kombu's event loop drain a connection."""
        connection.register(loop)

    def unregister_from_event_loop(self, connection: Connection, loop: Any) -> None:
        """Ends that."""
        connection.unregister(loop)

    def verify_connection(self, connection: Connection) -> Any:
        """Whether a connection is open."""
        return connection.connected

    def driver_version(self) -> Any:
        """The version of SQLite."""
        return version()

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """The URL as it is: it holds no password."""
        return uri


class FilesystemTransport(EmbeddedTransport):
    """`filesystem:///folder`: a bus in a folder of a local disk."""


class MemoryTransport(EmbeddedTransport):
    """`memory://name`: a bus in memory, for as long as somebody uses it."""
