"""A TCP proxy that can cut connections, or fall silent: a broker that is there and doesn't answer."""

import contextlib
import socket
import threading
import time


class Proxy:
    """Forwards connections to a port of this machine.

    Args:
        port: that one.
        listen: the port to listen on; 0 is any that is free.

    Attributes:
        accepted_at: the monotonic time of the last new connection.
    """

    def __init__(self, port: int, listen: int = 0) -> None:
        self._target = port
        self.accepted_at = 0.0
        self._listening = socket.create_server(("127.0.0.1", listen))
        self.port: int = self._listening.getsockname()[1]
        self._forwarding = threading.Event()
        self._forwarding.set()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def fall_silent(self) -> None:
        """From now on takes everything, and passes nothing on."""
        self._forwarding.clear()

    def cut(self) -> None:
        """Cuts all connections; new ones are taken."""
        for one in self._sockets[:]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cuts all connections."""
        for one in (self._listening, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._forwarding.set()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                self.accepted_at = time.monotonic()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += (near, far)
                self._start(self._pass_on, near, far)
                self._start(self._pass_on, far, near)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._forwarding.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def _start(self, function, *args: object) -> None:  # type: ignore[no-untyped-def]
        thread = threading.Thread(target=function, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()
