"""Columns of a row with the type that the schema gives them, checked."""

from __future__ import annotations

import apsw


def integer(value: apsw.SQLiteValue) -> int:
    """An INTEGER column."""
    if isinstance(value, int):
        return value
    raise TypeError(f"{value!r} isn't an integer: the store's schema is broken")


def text(value: apsw.SQLiteValue) -> str:
    """A TEXT column."""
    if isinstance(value, str):
        return value
    raise TypeError(f"{value!r} isn't text: the store's schema is broken")


def blob(value: apsw.SQLiteValue) -> bytes:
    """A BLOB column."""
    if isinstance(value, bytes):
        return value
    raise TypeError(f"{value!r} isn't a blob: the store's schema is broken")
