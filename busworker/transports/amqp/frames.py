"""Frames of AMQP 0-9-1 (2.3): those that have come, put together, and those of a publish. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache

import msgspec
from amqp.exceptions import UnexpectedFrame

from busworker.transports.amqp.codec import short, write_properties

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = 0xCE
HEAD = struct.Struct(">BHI")
FRAME_OVERHEAD = 8
"""Octets of a frame around its payload."""

DELIVER = struct.pack(">HH", 60, 60)
RETURN = struct.pack(">HH", 60, 50)
GET_OK = struct.pack(">HH", 60, 71)
ACK = struct.pack(">HH", 60, 80)
NACK = struct.pack(">HH", 60, 120)
BLOCKED = struct.pack(">HH", 10, 60)
UNBLOCKED = struct.pack(">HH", 10, 61)
_WITH_CONTENT = frozenset({DELIVER, RETURN, GET_OK})
_PUBLISH = struct.Struct(">HHH")
_CONTENT = struct.Struct(">HHQ")
_MANDATORY = b"\1"


class Method(msgspec.Struct, gc=False):
    """A method that has come, complete. `header` is None where it carries no content."""

    channel: int
    signature: bytes
    payload: bytes
    header: bytes | None = None
    body: bytes = b""


class _Partial(msgspec.Struct):
    method: Method
    left: int = 0
    chunks: list[bytes] = []


class FrameReader:
    """Puts methods together from what a socket gives."""

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        self._partial: dict[int, _Partial] = {}

    def feed(self, data: bytes) -> None:
        """What has come."""
        self._data = self._data[self._at :] + data
        self._at = 0

    def methods(self) -> Iterator[Method | None]:
        """The complete ones in their order, each once; None is a heartbeat. It may be left and begun anew at any time.

        Raises:
            UnexpectedFrame: this isn't AMQP, or a content without its beginning.
        """
        while True:
            data, at = self._data, self._at
            if len(data) - at < FRAME_OVERHEAD:
                return
            kind, channel, size = HEAD.unpack_from(data, at)
            end = at + HEAD.size + size
            if len(data) <= end:
                return
            if data[end] != END:
                raise UnexpectedFrame(f"a frame ends with {data[end]:#04x}")
            self._at = end + 1
            payload = data[at + HEAD.size : end]
            if kind == METHOD and payload[:4] not in _WITH_CONTENT:
                yield Method(channel, payload[:4], payload)
            elif kind == HEARTBEAT:
                yield None
            elif (complete := self._content(kind, channel, payload)) is not None:
                yield complete

    def _content(self, kind: int, channel: int, payload: bytes) -> Method | None:
        """A method of which the content follows, or a part of that; the method with all of it once it is complete."""
        if kind == METHOD:
            self._partial[channel] = _Partial(Method(channel, payload[:4], payload))
            return None
        partial = self._partial.get(channel)
        if partial is None or (kind == HEADER) is (partial.method.header is not None):
            raise UnexpectedFrame(f"a frame of type {kind} on channel {channel} out of its order")
        if kind == HEADER:
            partial.method.header = payload
            partial.left = _CONTENT.unpack_from(payload)[2]
        else:
            partial.chunks.append(payload)
            partial.left -= len(payload)
        if partial.left > 0:
            return None
        del self._partial[channel]
        partial.method.body = b"".join(partial.chunks)
        return partial.method


def publish(  # one argument for each thing that AMQP wants
    channel: int,
    exchange: str,
    routing_key: str,
    body: bytes,
    properties: dict[str, object],
    headers: dict[str, object],
    frame_max: int,
) -> bytes:
    """The frames of a mandatory publish.

    Args:
        channel: number of the kombu_channel.
        exchange: where to.
        routing_key: how it is routed there.
        body: the content.
        properties: without headers.
        headers: the table of headers.
        frame_max: octets of the largest frame that the broker takes.

    Raises:
        ValueError: something is longer than AMQP has room for.
    """
    header = _CONTENT.pack(60, 0, len(body)) + write_properties(properties, headers)
    if len(header) + FRAME_OVERHEAD > frame_max:
        raise ValueError(f"properties and headers of {len(header)} bytes don't fit into a frame of {frame_max}")
    parts = [
        _publish_method(channel, exchange, routing_key),
        HEAD.pack(HEADER, channel, len(header)), header, b"\xce",
    ]  # fmt: skip
    step = frame_max - FRAME_OVERHEAD
    for start in range(0, len(body), step):
        chunk = body[start : start + step]
        parts += (HEAD.pack(BODY, channel, len(chunk)), chunk, b"\xce")
    return b"".join(parts)


@lru_cache(maxsize=512)
def _publish_method(channel: int, exchange: str, routing_key: str) -> bytes:
    payload = _PUBLISH.pack(60, 40, 0) + short(exchange) + short(routing_key) + _MANDATORY
    return HEAD.pack(METHOD, channel, len(payload)) + payload + b"\xce"
