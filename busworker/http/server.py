"""A small HTTP server: one request and one answer a connection, of bounded number, size and time.

Not the standard library's nor prometheus_client's: their threads are held by whoever connects and says nothing, so that
a few such clients keep a probe from its answer. Here a client costs a socket and no more, and gives way to new ones.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple

MOST_CLIENTS = 64
MOST_BYTES = 16 * 1024
"""Bytes of a request's head; nobody reads a body."""
PATIENCE = 10.0
"""Seconds that a client has from its connection until it has read its answer."""
TEXT = "text/plain; charset=utf-8"


class Request(NamedTuple):
    """What a client wants: the path without its query, and which formats it takes."""

    method: str
    path: str
    accept: str


class Response(NamedTuple):
    """What it gets; only a GET gets the body."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT


def parse_request(head: bytes) -> Request | None:
    """The request that a head, up to its empty line, makes; None: it makes none (RFC 9112, 3). Pure."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    target, _, version = rest.partition(" ")
    if not (method.isalpha() and target.startswith("/") and version.startswith("HTTP/1.")):
        return None
    fields = (line.partition(":") for line in lines)
    accept = ",".join(value.strip() for name, _, value in fields if name.lower() == "accept")
    return Request(method, target.partition("?")[0], accept)


def encode_response(response: Response, *, body: bool) -> bytes:
    """The bytes of an answer after which the connection is closed. Pure."""
    status = response.status
    allow = "Allow: GET, HEAD\r\n" if status == HTTPStatus.METHOD_NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\n{allow}Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1", "replace") + (response.body if body else b"")


class Server:
    """The clients of a listening socket.

    Args:
        respond: answers a GET or HEAD; must not raise.
    """

    def __init__(self, respond: Callable[[Request], Awaitable[Response]]) -> None:
        self._respond = respond
        self._clients: dict[asyncio.StreamWriter, None] = {}

    async def serve(self, listener: socket.socket) -> None:
        """Answers for ever."""
        server = await asyncio.start_server(self._client, sock=listener, limit=MOST_BYTES)
        await server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients[writer] = None
        if len(self._clients) > MOST_CLIENTS:
            # The oldest: whoever wants something says so at once.
            next(iter(self._clients)).transport.abort()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._exchange(reader, writer)
        except (TimeoutError, OSError, EOFError):  # it is slow, or gone
            pass
        finally:
            self._clients.pop(writer)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = parse_request(await reader.readuntil(b"\r\n\r\n"))
        except asyncio.LimitOverrunError:
            request = None
        writer.write(encode_response(await self._response(request), body=request is None or request.method != "HEAD"))
        writer.close()
        await writer.wait_closed()

    async def _response(self, request: Request | None) -> Response:
        if request is None:
            return Response(HTTPStatus.BAD_REQUEST, b"this is no HTTP request\n")
        if request.method not in ("GET", "HEAD"):
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD\n")
        return await self._respond(request)
