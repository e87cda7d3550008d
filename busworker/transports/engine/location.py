"""Where a store lies: from a URL to a folder. Pure; imports nothing heavy, so that any process can ask."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from busworker.errors import ConfigurationError

Durability = Literal["full", "normal", "off"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_SHARED_MEMORY = Path("/dev/shm")


class Location(msgspec.Struct, frozen=True):
    """A store's folder and how it is kept.

    `durability`: `full` syncs every publish and settlement, `normal` may lose the last instants before a power cut
    (never before a crash of a process), `off` never syncs. `memory` says that the content goes with its last user.
    """

    folder: Path
    durability: Durability
    memory: bool = False

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.folder / "bus.db"

    @property
    def users(self) -> Path:
        """The file on which every user of a bus in memory holds a shared flock."""
        return self.folder / "users"


def parse(url: str) -> Location:
    """The location that a URL names; touches no disk.

    Raises:
        ConfigurationError: the scheme, the path, the name or an option is wrong.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme == "filesystem":
        return _filesystem(url, parts.netloc, unquote(parts.path), options)
    if parts.scheme == "memory":
        return _memory(url, parts.netloc + parts.path.rstrip("/"), options)
    raise ConfigurationError(f"broker {url!r}: the embedded store takes filesystem:///folder or memory://name")


def _filesystem(url: str, host: str, path: str, options: dict[str, str]) -> Location:
    if host or not path:
        raise ConfigurationError(f"broker {url!r} has no absolute path: write filesystem:///folder, with three slashes")
    durability = options.pop("durability", "full")
    _no_more_options(url, options, "durability")
    return Location(Path(path).absolute(), _durability(url, durability))


def _durability(url: str, name: str) -> Durability:
    match name:
        case "full":
            return "full"
        case "normal":
            return "normal"
        case _:
            raise ConfigurationError(f"broker {url!r}: durability={name!r} doesn't exist: use full or normal")


def _memory(url: str, name: str, options: dict[str, str]) -> Location:
    _no_more_options(url, options, "none")
    name = name or "default"
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"broker {url!r}: name a bus in memory with letters, digits, _ . and - only")
    return Location(_memory_root() / name, "off", memory=True)


def _memory_root() -> Path:
    base = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    return base / f"busworker-{os.getuid()}"


def _no_more_options(url: str, options: dict[str, str], known: str) -> None:
    if options:
        raise ConfigurationError(f"broker {url!r}: there is no option {', '.join(options)!r}; known: {known}")
