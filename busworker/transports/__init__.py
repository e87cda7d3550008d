"""The embedded brokers as kombu transports: `filesystem:///folder` and `memory://name` on one SQLite engine.

`kombu.Connection("filesystem:///path", transport="busworker.transports:FilesystemTransport")` works for any kombu
program. Importing this package loads neither kombu nor SQLite; asking for a transport does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from busworker.transports.engine import location

if TYPE_CHECKING:
    from busworker.transports.transport import FilesystemTransport, MemoryTransport

__all__ = ("FilesystemTransport", "MemoryTransport", "count_messages", "store_exists", "users_file")


def store_exists(url: str) -> bool:
    """Whether the store that a URL names has been made; makes nothing.

    Raises:
        ConfigurationError: the URL is wrong.
    """
    return location.parse(url).database.exists()


def count_messages(url: str, queue: str) -> int:
    """How many messages a queue holds, those in flight included; 0 without store or queue. Loads no kombu.

    Raises:
        BrokerUnavailable: the store can't be read.
        ConfigurationError: the URL is wrong.
    """
    if not store_exists(url):
        return 0
    from busworker.transports.engine.failures import MissingEntity
    from busworker.transports.engine.store import Store

    store = Store(location.parse(url))
    try:
        return sum(store.counts(queue))
    except MissingEntity:
        return 0
    finally:
        store.close()


def users_file(url: str) -> str | None:
    """The file on which a shared flock keeps the content of `memory://name`; None for `filesystem://`.

    It may not exist yet. Who only holds the flock keeps the messages while others come and go.

    Raises:
        ConfigurationError: the URL is wrong.
    """
    place = location.parse(url)
    return str(place.users) if place.memory else None


def __getattr__(name: str) -> object:
    if name in ("FilesystemTransport", "MemoryTransport"):
        from busworker.transports import transport

        return getattr(transport, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
