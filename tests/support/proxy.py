"""A TCP proxy in front of a broker that behaves as bad networks do: it cuts, refuses, delays, freezes and half-closes.

One thread serves all connections. The test's thread only tells it what to do, and finds that done when a call returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Literal, Self, TypeVar
from urllib.parse import urlsplit

from tests.support.rabbitmq import HOST, free_ports

T = TypeVar("T")
Direction = Literal["up", "down"]
"""`up` is to the broker, `down` from it."""

PATIENCE = 10.0
"""Seconds for what the proxy's thread does at once."""
CHUNK = 65536
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 s: closing sends RST (socket(7))."""


class Proxy:
    """Passes connections on to a broker on this machine.

    Args:
        broker: its URL.

    Attributes:
        url: the same through the proxy.
        accepted: connections taken so far.
        accepted_at: the monotonic time of the last of them.
    """

    def __init__(self, broker: str) -> None:
        parts = urlsplit(broker)
        assert parts.port is not None, f"{broker} names no port"
        credentials, at, _ = parts.netloc.rpartition("@")
        (port,) = free_ports(1)
        self.url = parts._replace(netloc=f"{credentials}{at}{HOST}:{port}").geturl()
        self._target = parts.port
        self.accepted = 0
        self.accepted_at = 0.0
        self._delays: dict[Direction, float] = {"up": 0.0, "down": 0.0}
        self._pairs: set[_Pair] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listening = _bound(port)
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy of {broker}")
        self._thread.start()
        self.take()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many are open now."""
        return self._do(lambda: len(self._pairs))

    # What networks do

    def cut(self, *, reset: bool = True) -> int:
        """Ends every connection on both sides, with RST or with FIN; returns how many. New ones are taken."""
        return self._wait(self._cut(reset))

    def refuse(self) -> None:
        """New connections are refused (ECONNREFUSED) until `take`; those there are stay."""
        self._do(self._refuse)

    def take(self) -> None:
        """New connections are taken, as at first."""
        self._do(self._take)

    def delay(self, *, up: float = 0.0, down: float = 0.0) -> None:
        """Everything that arrives from now on is passed on so many seconds later, in its order."""
        self._do(lambda: self._delays.update(up=up, down=down))

    def freeze(self) -> None:
        """From now on takes everything, new connections too, and passes nothing on until `thaw`."""
        self._do(self._flowing.clear)

    def thaw(self) -> None:
        """Passes on what it has kept, in its order, and what comes."""
        self._do(self._flowing.set)

    def half_close(self, direction: Direction) -> int:
        """Ends one direction of every connection with FIN; the other one goes on. Returns of how many."""
        return self._do(lambda: sum(pair.end(direction) for pair in list(self._pairs)))

    def close(self) -> None:
        """Cuts all connections and ends the thread; nobody listens afterwards."""
        self._do(self._refuse)
        self._wait(self._cut(True))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._listening.close()
        self._loop.close()

    # In the proxy's thread

    def _do(self, action: Callable[[], T]) -> T:
        async def act() -> T:
            return action()

        return self._wait(act())

    def _wait(self, work: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def _take(self) -> None:
        self._listening.listen(128)
        self._loop.add_reader(self._listening, self._accept)

    def _refuse(self) -> None:
        self._loop.remove_reader(self._listening)
        # Linux: the socket keeps its port, so that nobody else can have it, and may listen again.
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            near, _ = self._listening.accept()
            self.accepted += 1
            self.accepted_at = time.monotonic()
            pair = _Pair(near, self._target, self._delays, self._flowing)
            self._pairs.add(pair)
            pair.task.add_done_callback(lambda _: self._pairs.discard(pair))

    async def _cut(self, reset: bool) -> int:
        pairs = list(self._pairs)
        for pair in pairs:
            pair.cut(reset=reset)
        if pairs:
            await asyncio.wait([pair.task for pair in pairs])
        return len(pairs)


class _Pair:
    """One connection: the client's socket and the one to the broker. Lives in the proxy's thread."""

    def __init__(
        self, near: socket.socket, target: int, delays: dict[Direction, float], flowing: asyncio.Event
    ) -> None:
        self._near = near
        self._far = socket.socket()
        for one in (near, self._far):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._target = target
        self._delays = delays
        self._flowing = flowing
        self._ended: set[Direction] = set()
        self.task = asyncio.create_task(self._run())
        # Only when no task waits for them any more: the number of a closed descriptor is soon another's. Not in the
        # task, which may be cut before it has begun.
        self.task.add_done_callback(lambda _: self._close())

    def cut(self, *, reset: bool) -> None:
        if reset:
            self._reset()
        self.task.cancel()

    def end(self, direction: Direction) -> bool:
        """FIN to who receives; what still comes from the other side is thrown away."""
        if direction in self._ended:
            return False
        self._ended.add(direction)
        with contextlib.suppress(OSError):
            (self._far if direction == "up" else self._near).shutdown(socket.SHUT_WR)
        return True

    async def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            try:
                await asyncio.get_running_loop().sock_connect(self._far, (HOST, self._target))
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pass_on(self._near, self._far, "up"))
                    group.create_task(self._pass_on(self._far, self._near, "down"))
            except* OSError:
                self._reset()  # as one side was, or as there is nobody

    async def _pass_on(self, source: socket.socket, target: socket.socket, direction: Direction) -> None:
        kept: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep(source, kept, direction))
            while data := await self._due(kept):
                if direction not in self._ended:
                    await asyncio.get_running_loop().sock_sendall(target, data)
            self.end(direction)

    async def _keep(
        self, source: socket.socket, kept: asyncio.Queue[tuple[float, bytes]], direction: Direction
    ) -> None:
        """Reads on while what was read waits, so that who sends notices nothing."""
        loop = asyncio.get_running_loop()
        data = b"at first"
        while data:
            data = await loop.sock_recv(source, CHUNK)
            kept.put_nowait((loop.time() + self._delays[direction], data))

    async def _due(self, kept: asyncio.Queue[tuple[float, bytes]]) -> bytes:
        due, data = await kept.get()
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        await self._flowing.wait()
        return data

    def _close(self) -> None:
        self._near.close()
        self._far.close()

    def _reset(self) -> None:
        for one in (self._near, self._far):
            with contextlib.suppress(OSError):  # it is closed already
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def _bound(port: int) -> socket.socket:
    """A socket that holds the port, and isn't listening yet: connections are refused."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((HOST, port))
    found.setblocking(False)
    return found
