"""Message properties and declared arguments as bytes: msgpack, with what AMQP's tables have beyond it.

An AMQP table (0-9-1 section 4.2.5) may hold times and decimals; each is stored as an extension, so that it comes back
as it was. Times are naive and UTC, as py-amqp has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

import msgspec

_ENCODED = frozenset({str, int, bytes, bool, float})
_PLAIN = _ENCODED | {type(None)}
_NAIVE_TIME, _AWARE_TIME, _DECIMAL = 1, 2, 3


def encode(table: Mapping[str, object]) -> bytes:
    """A table as bytes, without what is None at its top.

    Raises:
        TypeError, OverflowError: it holds something that AMQP's tables don't.
    """
    for value in table.values():
        if type(value) not in _ENCODED and not (
            isinstance(value, dict) and _ENCODED.issuperset(map(type, value.values()))
        ):
            table = {name: _packed(one) for name, one in table.items() if one is not None}
            break
    return _encode(table)


def decode(data: bytes) -> dict[str, object]:
    """The table that was encoded; tuples come back as lists."""
    return _decode(data)


def _packed(value: object) -> object:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict):
        return {key: _packed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(item) for item in value]
    return _extension(value)


def _extension(value: object) -> object:
    if isinstance(value, datetime):
        kind = _NAIVE_TIME if value.tzinfo is None else _AWARE_TIME
        moment = value if value.tzinfo is None else value.astimezone(UTC)
        return msgspec.msgpack.Ext(kind, moment.isoformat().encode())
    if isinstance(value, Decimal):
        return msgspec.msgpack.Ext(_DECIMAL, str(value).encode())
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


def _unpacked(kind: int, data: memoryview) -> object:
    text = bytes(data).decode()
    return Decimal(text) if kind == _DECIMAL else datetime.fromisoformat(text)


def _refuse(value: object) -> object:
    raise TypeError(f"{value!r} can't be a message property or header: use str, bytes, int, float, bool, list or dict")


_encode = msgspec.msgpack.Encoder(enc_hook=_refuse).encode
_decode = msgspec.msgpack.Decoder(dict[str, object], ext_hook=_unpacked).decode
