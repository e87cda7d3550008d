"""An AMQP connection: py-amqp's, whose messages, confirms and alarms are read here, and which never waits for long."""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from amqp.exceptions import RecoverableConnectionError
from kombu.transport import pyamqp

from busworker.transports.amqp import frames
from busworker.transports.amqp.codec import read_short
from busworker.transports.amqp.wire import SecureWire, Wire

PATIENCE = 15.0
"""Seconds for an answer of the broker. A declaration of a quorum queue takes some 20 ms, and seconds in a cluster that
just elects."""
_TAG = struct.Struct(">QB")


class Channel(pyamqp.Channel):
    """A channel that stays closed when the broker closes it: py-amqp would open it again, without what it was for."""

    def _do_revive(self) -> None:
        self.is_open = False
        self.collect()


class Connection(pyamqp.Connection):
    """A connection of kombu's, on our wire.

    Attributes:
        patience: seconds for an answer to what is asked.
        until: monotonic seconds after which no answer is waited for, however patient we are.
        arrived: messages that were delivered and nobody has taken from here yet.
        on_confirm: told of a confirm: its number, whether it holds for all up to it, whether it is stored.
        on_return: told of a message that was returned: why, its exchange, its routing key, its body.
        blocked: why the broker takes no publishes now (RabbitMQ, "Blocked Connection Notifications"); else None.
    """

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.patience = PATIENCE
        self.until = float("inf")
        self.arrived: deque[frames.Method] = deque()
        self.on_confirm: Callable[[int, bool, bool], None] | None = None
        self.on_return: Callable[[str, str, str, bytes], None] | None = None
        self.blocked: str | None = None
        self._reader = frames.FrameReader()

    def Transport(self, host: str, connect_timeout: float, ssl: Any = False, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        """The wire that py-amqp asks for."""
        wire: Any = SecureWire if ssl else Wire
        timeouts = dict(zip(("read_timeout", "write_timeout"), args, strict=False))
        return wire(host, connect_timeout=connect_timeout, ssl=ssl, **timeouts, **kwargs)

    @property
    def transport(self) -> Any:
        """The wire.

        Raises:
            RecoverableConnectionError: the connection is closed. py-amqp would connect anew, behind our back.
        """
        if self._transport is None:
            raise RecoverableConnectionError("the connection is closed")
        return self._transport

    @transport.setter
    def transport(self, transport: Any) -> None:
        self._transport = transport

    def drain_events(self, timeout: float | None = None) -> None:
        """Sends what waits, and handles what has come: at least one method.

        Args:
            timeout: seconds to wait for it; None: `patience`.

        Raises:
            TimeoutError: nothing came.
            OSError, amqp.AMQPError: the connection or a channel is over.
        """
        deadline = min(time.monotonic() + (self.patience if timeout is None else timeout), self.until)
        self.transport.flush()
        while not self._handle():
            self.transport.wait(deadline)
            self.transport.flush()
            self._reader.feed(self.transport.receive())

    def pump(self) -> None:
        """Sends and handles what can be now, and waits for nothing.

        Raises:
            OSError, amqp.AMQPError: the connection or a channel is over.
        """
        self.transport.flush()
        if data := self.transport.receive():
            self._reader.feed(data)
        self._handle()

    def forget(self) -> None:
        """In a forked child: closes its copy of the socket, without a word to the broker."""
        if self._transport is not None and self._transport.sock is not None:
            self._transport.sock.close()

    @property
    def unsent(self) -> bool:
        """Whether something is left to send, for which the socket has no room."""
        return bool(self.transport.unsent)

    def publish(
        self,
        channel_id: int,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: dict[str, object],
        headers: dict[str, object],
    ) -> None:
        """Takes a mandatory message to be sent with what waits; see `frames.publish`."""
        self.transport.write(
            frames.publish(channel_id, exchange, routing_key, body, properties, headers, self.frame_max)
        )
        self.bytes_sent += 1

    def _handle(self) -> int:
        handled = 0
        for method in self._reader.methods():
            self.bytes_recv += 1
            if method is not None:
                handled += 1
                self._dispatch(method)
        return handled

    def _dispatch(self, method: frames.Method) -> None:
        match method.signature:
            case frames.DELIVER:
                self.arrived.append(method)
            case frames.ACK | frames.NACK if self.on_confirm is not None:
                number, bits = _TAG.unpack_from(method.payload, 4)
                self.on_confirm(number, bool(bits & 1), method.signature == frames.ACK)
            case frames.RETURN if self.on_return is not None:
                self._returned(method)
            case frames.BLOCKED:
                self.blocked = _str(read_short(method.payload, 4)[0])
            case frames.UNBLOCKED:
                self.blocked = None
            case _:
                self._others(method)

    def _others(self, method: frames.Method) -> None:
        """What py-amqp handles. A channel that is closed already may still be told something."""
        if self.channels is None or method.channel in self.channels:
            signature = struct.unpack(">HH", method.signature)
            self.on_inbound_method(method.channel, signature, method.payload, None)

    def _returned(self, method: frames.Method) -> None:
        text, at = read_short(method.payload, 6)
        exchange, at = read_short(method.payload, at)
        routing_key, _ = read_short(method.payload, at)
        assert self.on_return is not None
        self.on_return(_str(text), _str(exchange), _str(routing_key), method.body)


def read_deliver(payload: bytes) -> tuple[int, bool, str]:
    """A delivery's tag, whether it was delivered before, and its routing key (AMQP 0-9-1, basic.deliver)."""
    at = 5 + payload[4]  # the consumer tag
    tag, bits = _TAG.unpack_from(payload, at)
    at += _TAG.size
    at += 1 + payload[at]  # the exchange
    return tag, bool(bits & 1), _str(read_short(payload, at)[0])


def _str(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
