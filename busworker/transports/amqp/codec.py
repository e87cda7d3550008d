"""Properties and header tables of AMQP 0-9-1 to and from bytes (4.2.5, 4.2.6.1; RabbitMQ, "AMQP 0-9-1 Errata"). Pure.

A broker passes on what any client has sent, so everything can be read: text that isn't UTF-8 stays bytes, and what
can't be understood is told as damage instead of raised. py-amqp raises on such properties while it reads the socket,
again at every delivery.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import cast

import msgspec

MOST_DEEP = 64
"""Tables within tables that are read; deeper ones are damage, not a RecursionError."""

_SHORT, _TABLE, _OCTET, _LONG = range(4)
_PROPERTIES = (
    (0x8000, "content_type", _SHORT),
    (0x4000, "content_encoding", _SHORT),
    (0x2000, "headers", _TABLE),
    (0x1000, "delivery_mode", _OCTET),
    (0x0800, "priority", _OCTET),
    (0x0400, "correlation_id", _SHORT),
    (0x0200, "reply_to", _SHORT),
    (0x0100, "expiration", _SHORT),
    (0x0080, "message_id", _SHORT),
    (0x0040, "timestamp", _LONG),
    (0x0020, "type", _SHORT),
    (0x0010, "user_id", _SHORT),
    (0x0008, "app_id", _SHORT),
    (0x0004, "cluster_id", _SHORT),
)
_NUMBERS = {
    ord(letter): struct.Struct(f">{form}")
    for letter, form in {
        "b": "b", "B": "B", "U": "h", "s": "h", "u": "H", "I": "i", "i": "I", "l": "q", "L": "q", "f": "f", "d": "d",
    }.items()
}  # fmt: skip
_UNSIGNED_LONG = struct.Struct(">I")
_TIME = struct.Struct(">Q")
_DECIMAL = struct.Struct(">Bi")


class Properties(msgspec.Struct, gc=False):
    """What a content header says; `damage` is what in it can't be read."""

    plain: dict[str, object]
    headers: dict[str, object]
    damage: str | None = None


def read_properties(data: bytes, at: int) -> Properties:
    """The properties from their flags on.

    Args:
        data: a content header's payload.
        at: where the property flags begin.
    """
    flags = int.from_bytes(data[at : at + 2])
    at += 2
    found = Properties({}, {})
    try:
        for bit, name, kind in _PROPERTIES:
            if flags & bit:
                at = _READERS[kind](found, name, data, at)
    except (IndexError, struct.error):
        found.damage = "its properties end too early"
    return found


def write_properties(plain: dict[str, object], headers: dict[str, object] | None) -> bytes:
    """Flags and values, as they follow the body's size in a content header.

    Raises:
        ValueError: a text is longer than AMQP has room for, or a number doesn't fit.
    """
    flags, parts = 0, [b""]
    for bit, name, kind in _PROPERTIES:
        value: object = headers if kind == _TABLE else plain.get(name)
        if value is None or (kind == _TABLE and not value):
            continue
        flags |= bit
        parts.append(_WRITERS[kind](value))
    parts[0] = flags.to_bytes(2)
    return b"".join(parts)


def short(value: object) -> bytes:
    """A short string (4.2.5.3): its length in one octet, and its bytes.

    Raises:
        ValueError: it is longer than 255 bytes.
    """
    raw = _bytes(value)
    if len(raw) > 255:
        raise ValueError(f"{raw[:40]!r}… is longer than the 255 bytes that AMQP allows here")
    return bytes((len(raw),)) + raw


def read_short(data: bytes, at: int) -> tuple[str | bytes, int]:
    """A short string and where it ends; bytes if it isn't UTF-8."""
    end = at + 1 + data[at]
    if end > len(data):
        raise IndexError(end)
    return _text(data[at + 1 : end]), end


# Reading


def _read_short(found: Properties, name: str, data: bytes, at: int) -> int:
    found.plain[name], end = read_short(data, at)
    if isinstance(found.plain[name], bytes):
        found.damage = found.damage or f"its {name} isn't UTF-8"
    return end


def _read_octet(found: Properties, name: str, data: bytes, at: int) -> int:
    found.plain[name] = data[at]
    return at + 1


def _read_time(found: Properties, name: str, data: bytes, at: int) -> int:
    (found.plain[name],) = _TIME.unpack_from(data, at)
    return at + 8


def _read_headers(found: Properties, name: str, data: bytes, at: int) -> int:
    end = at + 4 + _length(data, at)
    try:
        _read_table(found.headers, data[:end], at + 4, MOST_DEEP)
    except (IndexError, struct.error, ValueError) as error:
        found.damage = f"its {name} can't be read: {error}"
    return end


def _read_table(table: dict[str, object], data: bytes, at: int, depth: int) -> None:
    while at < len(data):
        name, at = read_short(data, at)
        # A name that isn't UTF-8 stays what it was when it is written again.
        text = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
        table[text], at = _read_value(data, at, depth)


def _read_value(data: bytes, at: int, depth: int) -> tuple[object, int]:
    kind = data[at]
    at += 1
    if (number := _NUMBERS.get(kind)) is not None:
        return number.unpack_from(data, at)[0], at + number.size
    reader = _VALUES.get(kind)
    if reader is None:
        raise ValueError(f"there is no type {chr(kind)!r}")
    return reader(data, at, depth)


def _read_string(data: bytes, at: int, _: int) -> tuple[object, int]:
    raw, end = _read_octets(data, at, 0)
    return _text(cast("bytes", raw)), end


def _read_octets(data: bytes, at: int, _: int) -> tuple[object, int]:
    end = at + 4 + _length(data, at)
    return data[at + 4 : end], end


def _read_inner(data: bytes, at: int, depth: int) -> tuple[object, int]:
    end = at + 4 + _length(data, at)
    inner: dict[str, object] = {}
    _read_table(inner, data[:end], at + 4, _deeper(depth))
    return inner, end


def _read_array(data: bytes, at: int, depth: int) -> tuple[object, int]:
    end = at + 4 + _length(data, at)
    at += 4
    values: list[object] = []
    while at < end:
        value, at = _read_value(data, at, _deeper(depth))
        values.append(value)
    return values, end


def _read_moment(data: bytes, at: int, _: int) -> tuple[object, int]:
    (seconds,) = _TIME.unpack_from(data, at)
    try:
        return datetime.fromtimestamp(seconds, UTC), at + 8
    except (ValueError, OverflowError, OSError):
        return seconds, at + 8  # beyond the calendar


def _read_decimal(data: bytes, at: int, _: int) -> tuple[object, int]:
    scale, value = _DECIMAL.unpack_from(data, at)
    return Decimal(value).scaleb(-scale), at + 5


def _length(data: bytes, at: int) -> int:
    length = int(_UNSIGNED_LONG.unpack_from(data, at)[0])
    if at + 4 + length > len(data):
        raise IndexError(f"{length} bytes are told, and fewer are there")
    return length


def _deeper(depth: int) -> int:
    if not depth:
        raise ValueError(f"it is nested more than {MOST_DEEP} deep")
    return depth - 1


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


_READERS = {_SHORT: _read_short, _TABLE: _read_headers, _OCTET: _read_octet, _LONG: _read_time}
_VALUES: dict[int, Callable[[bytes, int, int], tuple[object, int]]] = {
    ord("S"): _read_string,
    ord("x"): _read_octets,
    ord("F"): _read_inner,
    ord("A"): _read_array,
    ord("T"): _read_moment,
    ord("D"): _read_decimal,
    ord("t"): lambda data, at, _: (bool(data[at]), at + 1),
    ord("V"): lambda data, at, _: (None, at),
}


# Writing


def _write_table(value: object) -> bytes:
    table = cast("dict[object, object]", value)
    content = b"".join([short(name) + _write_value(one) for name, one in table.items()])
    return _UNSIGNED_LONG.pack(len(content)) + content


def _write_value(value: object) -> bytes:
    match value:
        case bool():
            return b"t\1" if value else b"t\0"
        case int():
            return _write_int(value)
        case float():
            return b"d" + _NUMBERS[ord("d")].pack(value)
        case None:
            return b"V"
        case dict():
            return b"F" + _write_table(cast("object", value))
        case list() | tuple():
            content = b"".join([_write_value(one) for one in cast("list[object]", value)])
            return b"A" + _UNSIGNED_LONG.pack(len(content)) + content
        case datetime():
            return _write_moment(value)
        case Decimal():
            return _write_decimal(value)
        case _:
            raw = _bytes(value)
            return b"S" + _UNSIGNED_LONG.pack(len(raw)) + raw


def _write_int(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"I" + _NUMBERS[ord("I")].pack(value)
    if 2**63 <= value < 2**64:  # only a moment beyond the calendar is as large when it is read
        return b"T" + _TIME.pack(value)
    return b"l" + _long(value)


def _write_moment(value: datetime) -> bytes:
    seconds = int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    return b"T" + _TIME.pack(seconds) if seconds >= 0 else b"l" + _long(seconds)


def _write_decimal(value: Decimal) -> bytes:
    if value.is_finite():
        sign, digits, exponent = value.as_tuple()
        unscaled = int("".join(map(str, digits))) * (-1 if sign else 1)
        if isinstance(exponent, int) and -255 <= exponent <= 0 and -(2**31) <= unscaled < 2**31:
            return b"D" + _DECIMAL.pack(-exponent, unscaled)
    return _write_value(str(value))


def _long(value: int) -> bytes:
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"the number {value} doesn't fit into the 64 bits that AMQP has")
    return _NUMBERS[ord("l")].pack(value)


def _write_octet(value: object) -> bytes:
    if not isinstance(value, int) or not 0 <= value < 256:
        raise ValueError(f"{value!r} is no number from 0 to 255")
    return bytes((value,))


def _write_time(value: object) -> bytes:
    seconds = value.timestamp() if isinstance(value, datetime) else value
    if not isinstance(seconds, int | float) or not 0 <= seconds < 2**64:
        raise ValueError(f"{value!r} is no timestamp")
    return _TIME.pack(int(seconds))


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return str(value).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return str(value).encode("utf-8", "replace")


_WRITERS: dict[int, Callable[[object], bytes]] = {
    _SHORT: short,
    _TABLE: _write_table,
    _OCTET: _write_octet,
    _LONG: _write_time,
}
