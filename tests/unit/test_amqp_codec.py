"""Properties and headers of any client are read, and written again as they were."""

import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from amqp.basic_message import Message
from amqp.serialization import decode_properties_basic
from hypothesis import given
from hypothesis import strategies as st

from busworker.transports.amqp.codec import Properties, read_properties, short, write_properties

short_text = st.text(st.characters(codec="utf-8"), max_size=60)
PLAIN = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("content_type", "content_encoding", "correlation_id", "reply_to", "expiration", "message_id", "type",
             "user_id", "app_id", "cluster_id"), short_text),
        "delivery_mode": st.integers(0, 255),
        "priority": st.integers(0, 255),
        "timestamp": st.integers(0, 2**64 - 1),
    },
)  # fmt: skip
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=100)
    | st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1)).map(lambda at: at.replace(microsecond=0, tzinfo=UTC))
    | st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-9999, max_value=9999)
)
HEADERS = st.dictionaries(
    short_text,
    st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(short_text, inner, max_size=4)),
    max_size=5,
)


def read(data: bytes) -> Properties:
    return read_properties(data, 0)


@given(PLAIN, HEADERS)
def test_what_was_written_is_read(plain: dict[str, Any], headers: dict[str, Any]) -> None:
    found = read(write_properties(plain, headers))
    assert (found.plain, found.headers, found.damage) == (plain, headers, None)


@given(PLAIN)
def test_py_amqp_reads_and_writes_the_same(plain: dict[str, Any]) -> None:
    plain.pop("timestamp", None)  # which it takes as datetime, and gives as number
    data = write_properties(plain, {"trace": "t", "n": 1, "deep": {"a": [True, None]}})
    found, _ = decode_properties_basic(data, 0)
    headers = found.pop("application_headers")
    assert (found, headers) == (plain, {"trace": "t", "n": 1, "deep": {"a": [True, None]}})
    assert Message("", **plain, application_headers=headers)._serialize_properties() == data


def table(content: bytes) -> bytes:
    """A content header's properties with this table of headers, and a message id behind it."""
    return b"\x20\x80" + struct.pack(">I", len(content)) + content + b"\x02id"


EVERY_TYPE = [
    (b"b\xff", -1), (b"B\xff", 255), (b"U\xff\xfe", -2), (b"s\xff\xfe", -2), (b"u\xff\xfe", 65534),
    (b"I\xff\xff\xff\xff", -1), (b"i\xff\xff\xff\xff", 2**32 - 1), (b"l" + b"\xff" * 8, -1), (b"L" + b"\xff" * 8, -1),
    (b"f\x3f\x80\0\0", 1.0), (b"d\x3f\xf0" + b"\0" * 6, 1.0), (b"D\x02\0\0\x01\x00", Decimal("2.56")),
    (b"S\0\0\0\x02ab", "ab"), (b"S\0\0\0\x01\xff", b"\xff"), (b"x\0\0\0\x02\xff\0", b"\xff\0"), (b"t\x01", True),
    (b"V", None), (b"T" + struct.pack(">Q", 86400), datetime(1970, 1, 2, tzinfo=UTC)),
    (b"T" + b"\xff" * 8, 2**64 - 1), (b"F\0\0\0\x04\x01ab\x01", {"a": 1}),
    (b"A\0\0\0\x04b\x01t\0", [1, False]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "value"), EVERY_TYPE, ids=[f"{raw[:1].decode()}{n}" for n, (raw, _) in enumerate(EVERY_TYPE)]
)
def test_a_header_of_every_type_is_read(raw: bytes, value: object) -> None:
    found = read(table(b"\x01h" + raw))
    assert (found.headers, found.plain, found.damage) == ({"h": value}, {"message_id": "id"}, None)
    again = read(write_properties(found.plain, found.headers))
    assert again.headers == {"h": value}


@pytest.mark.parametrize(
    "content",
    [b"\x01hQ", b"\x01hI\0", b"\x01hS\0\0\0\xff", b"\xff", b"\x01h", b"\x01hF\0\0\1\0"],
    ids=["type", "number", "string", "name", "value", "table"],
)
def test_headers_that_can_not_be_read_are_damage_and_the_rest_is_read(content: bytes) -> None:
    found = read(table(b"\x04goodt\x01" + content))
    assert found.damage is not None
    assert found.damage.startswith("its headers can't be read")
    assert found.headers == {"good": True}
    assert found.plain == {"message_id": "id"}


def test_headers_nested_without_end_are_damage() -> None:
    content = b"V"
    for _ in range(5000):
        content = b"F" + struct.pack(">I", len(content) + 2) + b"\x01a" + content
    found = read(table(b"\x01a" + content))
    assert found.damage is not None
    assert "64 deep" in found.damage
    assert found.plain == {"message_id": "id"}


def test_properties_that_are_not_utf8_stay_bytes() -> None:
    data = write_properties({"message_id": b"\xff\xfe", "correlation_id": "c"}, {"h\udcff": b"\xff"})
    found = read(data)
    assert found.plain == {"message_id": b"\xff\xfe", "correlation_id": "c"}
    assert found.headers == {"h\udcff": b"\xff"}
    assert found.damage == "its message_id isn't UTF-8"
    assert write_properties(found.plain, found.headers) == data


@given(st.binary(max_size=80))
def test_nothing_that_comes_raises(data: bytes) -> None:
    found = read(data)
    assert isinstance(found.plain, dict)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="255 bytes"):
        short("x" * 256)
    with pytest.raises(ValueError, match="64 bits"):
        write_properties({}, {"h": 2**64})
    with pytest.raises(ValueError, match="0 to 255"):
        write_properties({"priority": 256}, None)
