"""The embedded brokers as kombu transports: `filesystem:///folder` and `memory://name` on one SQLite engine.

`kombu.Connection("filesystem:///path", transport="busworker.transports:FilesystemTransport")` works for any kombu
program. Importing this package loads neither kombu nor SQLite; asking for a transport does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from busworker.transports.engine import location

if TYPE_CHECKING:
    from busworker.transports.transport import FilesystemTransport, MemoryTransport

__all__ = ("FilesystemTransport", "MemoryTransport", "store_exists", "users_file")


def store_exists(url: str) -> bool:
    """Whether the store that a URL names has been made; makes nothing.

    Raises:
        ConfigurationError: the URL is wrong.
    """
    return location.parse(url).database.exists()


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
