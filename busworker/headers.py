"""The headers and short strings that an application may send: checked when they are published. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec

from busworker.errors import EncodeError
from busworker.message import OWN_PREFIX, HeaderValue

HEADERS_LIMIT = 64 * 1024
"""Bytes; AMQP sends all headers in one frame, and a dead letter adds up to 8 KiB of ours."""


def short(value: object, what: str) -> str:
    """The text itself, if it can be a property or the name of a header.

    Raises:
        EncodeError: it is no text, or has not 1 to 255 bytes (AMQP 0-9-1, 4.2.5.3: short strings).
    """
    if not isinstance(value, str):
        raise EncodeError(f"{what}={value!r} is no text but of type {type(value).__name__}: give str")
    try:
        if 0 < len(value.encode()) <= 255:
            return value
    except UnicodeEncodeError:
        pass  # a lone surrogate has no bytes
    raise EncodeError(f"{what}={value!r} must have 1 to 255 bytes of UTF-8")


def checked_headers(headers: Mapping[str, HeaderValue] | None) -> dict[str, HeaderValue]:
    """A copy of an application's headers.

    Raises:
        EncodeError: a name or a value can't be sent, or together they are over `HEADERS_LIMIT`.
    """
    if not headers:
        return {}
    _check_mapping(headers)
    for name in headers:
        if short(name, "the name of a header").startswith(OWN_PREFIX):
            raise EncodeError(f"header {name!r}: names that start with {OWN_PREFIX!r} are busworker's own")
    try:
        for name, value in headers.items():
            _check_header(name, value)
        taken = len(msgspec.msgpack.encode(headers))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EncodeError(f"the headers can't be sent: {error}") from error
    if taken > HEADERS_LIMIT:
        raise EncodeError(f"the headers have {taken:,} bytes, over the limit of {HEADERS_LIMIT:,}")
    return dict(headers)


def _check_mapping(headers: object) -> None:
    if not isinstance(headers, Mapping):
        raise EncodeError(f"headers={headers!r} are of type {type(headers).__name__}: give a dict")


def _check_header(name: str, value: object) -> None:
    """Refuses what a broker can't carry, which would otherwise show only in the publisher's thread."""
    match value:
        case None | bool() | float() | str() | bytes():
            return
        case int() if -(2**63) <= value < 2**63:
            return
        case list() | tuple():
            parts = cast("list[object]", value)
        case dict() if all(isinstance(key, str) for key in cast("dict[object, object]", value)):
            parts = list(cast("dict[str, object]", value).values())
        case _:
            raise EncodeError(f"header {name!r}: {value!r} is no text, bytes, number, bool, None, list or dict")
    for part in parts:
        _check_header(name, part)
