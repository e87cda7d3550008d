"""Broker URLs without their secrets: for logs and errors, and to tell two buses apart. Imports no kombu."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

# Nothing begins in the middle of a scheme, and names are bounded: else a long text takes the square of its size.
_WORD = re.compile(r"[^\s;]+")
_USER = re.compile(r"(?<![a-z0-9+.-])[a-z0-9+.-]+://[^/:@]*:", re.IGNORECASE)
_PARAMETER = re.compile(r"([?&][^=&\s]{0,64}(?:password|passwd|secret|token)[^=&\s]{0,64}=)[^&;\s]*", re.IGNORECASE)
_PORTS = {"amqp": 5672, "amqps": 5671}


def hide_password(text: str) -> str:
    """The text with every password in its URLs shown as `***`.

    Args:
        text: one URL, several with `;` between, or any text that may hold some.

    Guarantees:
        It hides too much rather than too little: a password with a raw `/` or `@`, which no URL may have, is
        hidden up to the last `@`.
    """
    if "://" in text and "@" in text:
        text = _WORD.sub(_without_password, text)
    return _PARAMETER.sub(r"\1***", text)


def shown(url: str) -> str:
    """A broker's URL without its password, even if what is special in it isn't written as %-codes.

    As `hide_password`, but all of it is one URL: a space, a `;`, a `/` or a `#` doesn't end the password, the last `@`
    does.
    """
    head, at, host = url.rpartition("@")
    scheme, slashes, user = head.partition("://")
    if not (at and slashes and ":" in user):
        return hide_password(url)
    return hide_password(f"{scheme}://{user.partition(':')[0]}:***@{host}")


def bus_identity(url: str) -> str:
    """A text that is the same for URLs of one bus, without user, password and options.

    Guarantees:
        `bus_identity(hide_password(url)) == bus_identity(url)`. Whatever the text, it never raises.
    """
    return ";".join(sorted({_identity(part.strip()) for part in url.split(";") if part.strip()}))


def store_folder(url: str) -> Path | None:
    """The folder of a `filesystem://` bus; None for any other."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "filesystem" else None


def _without_password(word: re.Match[str]) -> str:
    head, at, host = word[0].rpartition("@")
    user = _USER.search(head) if at else None
    return word[0] if user is None else f"{head[: user.end()]}***@{host}"


def _identity(url: str) -> str:
    hidden = hide_password(url)  # so that both spellings, hidden or not, are split at the same places
    try:
        parts = urlsplit(hidden)
        port = parts.port
    except ValueError:
        return hidden.partition("?")[0]
    if parts.scheme == "filesystem":
        return f"filesystem://{os.path.realpath(unquote(parts.path))}"
    if parts.scheme == "memory":
        return f"memory://{parts.netloc or parts.path or 'default'}"
    return f"{parts.scheme}://{_server(parts, port)}/{unquote(parts.path[1:]) or '/'}"


def _server(parts: SplitResult, port: int | None) -> str:
    return f"{parts.hostname or 'localhost'}:{port or _PORTS.get(parts.scheme, 0)}"
