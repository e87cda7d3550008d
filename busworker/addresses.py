"""Where a process listens for HTTP: what a setting says, read. Pure."""

from __future__ import annotations

from typing import NamedTuple

from busworker.errors import ConfigurationError

_FORMS = "write :9100, 127.0.0.1:9100, [::1]:9100 or unix:/path"
MOST_DIGITS = 5
MOST_PATH = 107
"""Bytes of a Unix socket's path (unix(7))."""


class Address(NamedTuple):
    """A host ("": all of this machine's addresses) and a port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host or '*'}:{self.port}"


def parse_address(text: str, where: str) -> Address:
    """The address that a text names; `where` it was given is for the error.

    Raises:
        ConfigurationError: it names none.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or len(path.encode("utf-8", "replace")) > MOST_PATH or "\0" in path:
            raise ConfigurationError(
                f"{where}: {text!r} names no socket: write unix:/path, of {MOST_PATH} bytes at most"
            )
        return Address(path=path)
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host or not colon:
        raise ConfigurationError(f"{where}: {text!r} is no address: {_FORMS}")
    if not (port.isascii() and port.isdigit() and len(port) <= MOST_DIGITS and int(port) <= 65535):
        raise ConfigurationError(f"{where}: {text!r} has no port from 0 to 65535: {_FORMS}")
    return Address(host, int(port))
