"""The socket of an AMQP connection: nothing here ever waits, neither for a broker that is silent nor for a full one."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections import deque
from typing import Any

from amqp.transport import SSLTransport, TCPTransport

READ_SIZE = 256 * 1024
MOST_AT_ONCE = 1024 * 1024
"""Bytes that are read before they are looked at: what more there is waits in the kernel, and then in the broker."""
SEND_SIZE = 256 * 1024
USER_TIMEOUT = 0
"""No limit of our own for what finds no room at the broker, which stops reading while it has an alarm (tcp(7),
TCP_USER_TIMEOUT). py-amqp's second would drop such a connection again and again; heartbeats find out who is gone."""
_NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _Nonblocking:
    """What is added to py-amqp's transports once they have connected."""

    sock: Any

    def connect(self) -> None:
        """Connects, which may take the time limit that was given; from then on nothing waits."""
        super().connect()  # type: ignore[misc]
        self._unsent: deque[memoryview] = deque()
        self.sock.setblocking(False)

    @property
    def unsent(self) -> bool:
        """Whether something is left to send."""
        return bool(self._unsent)

    def write(self, data: Any) -> None:
        """Takes what is to be sent: with the next `flush`."""
        self._unsent.append(memoryview(bytes(data)))

    def flush(self) -> None:
        """Sends what the kernel takes.

        Raises:
            OSError: the connection is lost.
        """
        while self._unsent:
            data = self._gathered()
            try:
                sent = self.sock.send(data)
            except _NOT_NOW:
                sent = 0
            if sent < len(data):
                self._unsent.appendleft(data[sent:])
                return

    def receive(self) -> bytes:
        """What has come; nothing is fine.

        Raises:
            OSError: the connection is lost.
        """
        parts: list[bytes] = []
        size = 0
        while size < MOST_AT_ONCE or self._pending():
            try:
                data = self.sock.recv(READ_SIZE)
            except _NOT_NOW:
                break
            if not data:
                if parts:
                    break  # the next call tells
                raise ConnectionResetError("the broker has closed the connection")
            parts.append(data)
            size += len(data)
            if len(data) < READ_SIZE and not self._pending():
                break
        return b"".join(parts)

    def wait(self, deadline: float) -> None:
        """Waits until something has come, or what is left can be sent.

        Raises:
            TimeoutError: not until then (monotonic seconds).
        """
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError("the broker doesn't answer")

    def close(self) -> None:
        """Closes, after one more try to send what is left. May be called twice."""
        if self.sock is not None and hasattr(self, "_unsent"):
            try:
                self.flush()
            except OSError:
                pass  # it is closed for that reason, mostly
        super().close()  # type: ignore[misc]

    def _gathered(self) -> memoryview:
        """Much that is small in one piece: a system call, and with TLS a record, for each would take most time."""
        first = self._unsent.popleft()
        if len(first) >= SEND_SIZE or not self._unsent:
            return first
        parts, size = [first], len(first)
        while self._unsent and size < SEND_SIZE:
            parts.append(self._unsent.popleft())
            size += len(parts[-1])
        return memoryview(b"".join(parts))

    def _pending(self) -> bool:
        """Whether TLS has more that was read already: the kernel, and so a selector, knows nothing of that."""
        return isinstance(self.sock, ssl.SSLSocket) and bool(self.sock.pending())

    def _get_tcp_socket_defaults(self, sock: socket.socket) -> dict[int, Any]:
        options: dict[int, Any] = super()._get_tcp_socket_defaults(sock)  # type: ignore[misc]
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            options[socket.TCP_USER_TIMEOUT] = USER_TIMEOUT
        return options


class Wire(_Nonblocking, TCPTransport):  # type: ignore[misc]
    """Over TCP."""


class SecureWire(_Nonblocking, SSLTransport):  # type: ignore[misc]
    """Over TLS."""
