"""The control socket within the supervisor's loop: one request and one answer a connection, never waiting.

Whoever talks slowly, too much or not at all is dropped after `PATIENCE` seconds, or sooner if others come and there is
no room, and harms nobody else.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

from busworker.errors import ControlError
from busworker.ipc import control
from busworker.log_fields import event

log = logging.getLogger("busworker.supervisor")

MOST_CLIENTS = 64
MOST_BYTES = 64 * 1024
"""Bytes of a request."""
PATIENCE = 5.0
"""Seconds that a client has from its connection until it has read its answer."""
CHUNK = 16 * 1024


class Client:
    """A connection: what has come of its request, or what is left of its answer."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self.sock = sock
        self.until = until
        self.request = bytearray()
        self.answer = b""
        self.asked = False
        self.answered = False


Handle: TypeAlias = Callable[[Client, control.Request], None]


class Server:
    """The service's control socket.

    Args:
        listener: what `control.listen` gave; the server owns it.
        selector: the loop's; its data is what to call when a socket is ready.
        handle: takes a request; answers by `answer` or `refuse`, now or later.
        clients: connections that were accepted before, and have asked nothing that was read.
    """

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        handle: Handle,
        clients: Iterable[socket.socket] = (),
    ) -> None:
        self._selector = selector
        self._handle = handle
        self._clients: set[Client] = set()
        self._listen(listener)
        for sock in clients:
            self._take(sock)

    def replace(self, listener: socket.socket) -> None:
        """Goes on with another listener: the old one's path is gone, so nobody can connect to it any more."""
        self._selector.unregister(self._listener)
        self._listener.close()
        self._listen(listener)

    @property
    def next_due(self) -> float:
        """When the next client's time is over; monotonic seconds."""
        return min((client.until for client in self._clients), default=float("inf"))

    def expire(self, now: float) -> None:
        """Drops the clients whose time is over."""
        for client in [client for client in self._clients if client.until <= now]:
            self._drop(client)

    def answer(self, client: Client, result: object) -> None:
        """Sends a result, unless the client has gone."""
        self._send(client, control.encode_answer(result))

    def refuse(self, client: Client, error: str, exit_code: int) -> None:
        """Sends an error, unless the client has gone."""
        self._send(client, control.encode_error(error, exit_code))

    def hand_over(self) -> tuple[int, ...]:
        """Closes what is answered.

        Returns:
            The descriptors of what isn't: of the listener, where clients wait, and of the clients that wait already.
        """
        waiting = [client.sock for client in self._clients if not client.request]
        kept = tuple(sock.dup().detach() for sock in (self._listener, *waiting))
        self.close()
        return kept

    def close(self) -> None:
        """Sends what can be sent at once, and closes everything."""
        for client in list(self._clients):
            self._write(client)
        for client in list(self._clients):
            self._drop(client)
        self._selector.unregister(self._listener)
        self._listener.close()

    def _listen(self, listener: socket.socket) -> None:
        self._listener = listener
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        """Takes all that wait, at most as many as there is room for: those behind them wait for the next turn."""
        for _ in range(MOST_CLIENTS):
            try:
                sock, _ = self._listener.accept()
            except OSError:  # none is left, it is gone already, or no descriptor is free: it stays in the backlog
                return
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        if not control.peer_allowed(sock):
            sock.close()
            return
        if len(self._clients) >= MOST_CLIENTS:
            # The newest is the likeliest to be somebody who waits; whoever has asked already comes after the silent.
            self._drop(min(self._clients, key=lambda client: (client.asked, client.until)))
        self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        client = Client(sock, time.monotonic() + PATIENCE)
        self._clients.add(client)
        self._selector.register(sock, selectors.EVENT_READ, partial(self._read, client))

    def _read(self, client: Client) -> None:
        try:
            data = client.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        client.request += data
        line, newline, _ = bytes(client.request).partition(b"\n")
        if newline:
            self._requested(client, line)
        elif len(client.request) > MOST_BYTES:
            self.refuse(client, f"a request has at most {MOST_BYTES:,} bytes", 65)

    def _requested(self, client: Client, line: bytes) -> None:
        self._selector.unregister(client.sock)  # nothing more is read; a client that goes now is found when written to
        client.asked = True
        try:
            request = control.parse_request(line)
        except ControlError as error:
            self.refuse(client, str(error), 65)
            return
        try:
            self._handle(client, request)
        except Exception as error:
            log.exception("the command %s failed", request.command, extra=event("command_failed"))
            self.refuse(client, f"{request.command} failed: {error}", 1)

    def _send(self, client: Client, data: bytes) -> None:
        if client not in self._clients or client.answered:
            return
        client.answer, client.answered = data, True
        if client.sock in self._selector.get_map():
            self._selector.unregister(client.sock)
        self._write(client)
        if client in self._clients:
            self._selector.register(client.sock, selectors.EVENT_WRITE, partial(self._write, client))

    def _write(self, client: Client) -> None:
        try:
            sent = client.sock.send(client.answer) if client.answer else 0
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        client.answer = client.answer[sent:]
        if client.answered and not client.answer:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        self._clients.discard(client)
        if client.sock in self._selector.get_map():
            self._selector.unregister(client.sock)
        client.sock.close()
