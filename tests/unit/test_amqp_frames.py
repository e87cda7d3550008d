"""Frames are put together however they arrive, and a publish is written as py-amqp writes it."""

import struct
from typing import Any

import pytest
from amqp.basic_message import Message
from amqp.exceptions import UnexpectedFrame
from amqp.method_framing import frame_writer
from hypothesis import given
from hypothesis import strategies as st

from busworker.transports.amqp.frames import ACK, DELIVER, FrameReader, Method, publish

FRAME_MAX = 131072


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def delivery(channel: int, body: bytes, step: int = 10) -> list[bytes]:
    header = struct.pack(">HHQH", 60, 0, len(body), 0)
    parts = [body[at : at + step] for at in range(0, len(body), step)]
    return [
        frame(1, channel, DELIVER + b"args"),
        frame(2, channel, header),
        *(frame(3, channel, part) for part in parts),
    ]


def ack(number: int) -> bytes:
    return frame(1, 1, ACK + struct.pack(">QB", number, 0))


HEARTBEAT = frame(8, 0, b"")


def fed(chunks: list[bytes]) -> list[Method | None]:
    reader = FrameReader()
    found: list[Method | None] = []
    for chunk in chunks:
        reader.feed(chunk)
        found += reader.methods()
    return found


@given(st.lists(st.binary(max_size=25), max_size=5), st.lists(st.integers(1, 40), max_size=60))
def test_frames_are_put_together_wherever_they_are_cut(bodies: list[bytes], cuts: list[int]) -> None:
    data = b"".join(b"".join(delivery(1, body)) + HEARTBEAT + ack(7) for body in bodies)
    chunks: list[bytes] = []
    for cut in cuts:
        chunks.append(data[:cut])
        data = data[cut:]
    found = fed([*chunks, data])
    assert [one.body for one in found if one is not None and one.signature == DELIVER] == bodies
    assert sum(one is None for one in found) == len(bodies)
    assert sum(one is not None and one.signature == ACK for one in found) == len(bodies)


def test_contents_of_two_channels_may_interleave() -> None:
    first, second = delivery(1, b"a" * 25), delivery(2, b"b" * 25)
    mixed = [part for pair in zip(first, second, strict=True) for part in pair]
    assert [(one.channel, one.body) for one in fed(mixed) if one] == [(1, b"a" * 25), (2, b"b" * 25)]


def test_reading_may_be_left_and_begun_anew() -> None:
    reader = FrameReader()
    reader.feed(b"".join([*delivery(1, b"x"), ack(1), ack(2)]))
    first = next(reader.methods())
    assert first is not None
    assert first.body == b"x"
    assert len(list(reader.methods())) == 2


@pytest.mark.parametrize(
    "data",
    [
        ack(1)[:-1] + b"\0",
        frame(3, 1, b"x"),
        frame(2, 1, b"\0" * 14),
        b"".join(delivery(1, b"")[:1]) + frame(3, 1, b"x"),
    ],
    ids=["end", "body first", "header first", "body before header"],
)
def test_what_is_no_amqp_is_refused(data: bytes) -> None:
    with pytest.raises(UnexpectedFrame):
        fed([data])


class Written:
    """What py-amqp's writer needs of a connection and a transport."""

    frame_max = FRAME_MAX
    bytes_sent = 0

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: Any) -> None:
        self.data += bytes(data)


@pytest.mark.parametrize("size", [0, 10, FRAME_MAX - 8, FRAME_MAX - 7, 300_000])
def test_a_publish_is_what_py_amqp_would_write(size: int) -> None:
    written = Written()
    properties = {"content_type": "application/json", "message_id": "m1", "delivery_mode": 2}
    body = b"x" * size
    args = struct.pack(">H", 0) + b"\x09busworker" + b"\x01t" + b"\x01"
    message = Message(body, application_headers={"a": 1}, **properties)
    frame_writer(written, written)(1, 3, (60, 40), args, message)
    assert publish(3, "busworker", "t", body, properties, {"a": 1}, FRAME_MAX) == written.data


def test_headers_that_fit_no_frame_are_refused() -> None:
    with pytest.raises(ValueError, match="frame of 4096"):
        publish(1, "", "q", b"", {}, {"h": "x" * 5000}, 4096)
