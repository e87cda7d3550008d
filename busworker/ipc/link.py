"""A link: a stream socketpair between two of our processes that carries frames, and descriptors beside them.

SEQPACKET would keep frames apart by itself, but refuses 1 MB.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque

from busworker.ipc.frames import Frame, FrameReader, encode

CHUNK = 256 * 1024
MAX_DESCRIPTORS = 8


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a new link; close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


class Link:
    """One end of a link, for one thread.

    Args:
        sock: the end; the link owns it.
        blocking: whether `receive` and `flush` wait for the other side. The worker's do; a process that serves
            several links never waits for one of them.
        descriptors: whether descriptors may come; if not, those that do are closed.

    Attributes:
        closed: the other side is gone. Only a hint that its process died: that is the supervisor's to tell.
        broken: something could not be sent, because nobody will read it.
        descriptors: those received, oldest first; who takes one closes it.
    """

    def __init__(self, sock: socket.socket, *, blocking: bool = False, descriptors: bool = False) -> None:
        self._sock = sock
        self._receive = self._receive_both if descriptors else self._receive_bytes
        sock.setblocking(blocking)
        self._blocking = blocking
        self._reader = FrameReader()
        self._out: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self.closed = self.broken = False
        self.descriptors: deque[int] = deque()

    def fileno(self) -> int:
        """What to select on."""
        return self._sock.fileno()

    @property
    def unsent(self) -> bool:
        """Whether `flush` has something left to send: select for writing."""
        return bool(self._out)

    def send(self, frame: Frame) -> None:
        """Queues a frame and sends what the other side takes.

        Raises:
            ProtocolError: the frame is too long; nothing was queued.
        """
        self.post(frame)
        self.flush()

    def post(self, frame: Frame, descriptor: int | None = None) -> None:
        """Queues a frame for the next `flush`, with a descriptor that is duplicated when it is sent.

        Raises:
            ProtocolError: the frame is too long; nothing was queued.
        """
        self._out.append((encode(frame), () if descriptor is None else (os.dup(descriptor),)))

    def flush(self) -> None:
        """Sends what the other side takes now, or everything if the link is blocking. A dead other side is ignored."""
        while self._out and not self.closed:
            try:
                self._flush_one()
            except BlockingIOError:
                return
            except OSError:  # EPIPE, ECONNRESET: nobody will read it; what was sent may still be to read
                self.broken = True
                self._forget_unsent()
                return

    def receive(self) -> list[Frame]:
        """The frames that have arrived; a blocking link waits for some bytes first. Sets `closed` at the end.

        Raises:
            ProtocolError: what arrived is no frame; drop the link.
        """
        if self._reader.nonsense is not None:
            raise self._reader.nonsense
        frames: list[Frame] = []
        while not self.closed:
            try:
                data, descriptors = self._receive()
            except BlockingIOError:
                break
            except OSError:
                data, descriptors = b"", []
            self.descriptors.extend(descriptors)
            self.closed = not data
            frames += self._reader.feed(data)
            if self._blocking or (len(data) < CHUNK and not descriptors):
                break
        return frames

    def shut(self) -> None:
        """Ends the conversation: the other side reads an end of file, and nothing is received here any more."""
        self.closed = True
        with contextlib.suppress(OSError):  # it is gone already
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes this end and every descriptor nobody took."""
        self.closed = True
        self._forget_unsent()
        while self.descriptors:
            os.close(self.descriptors.popleft())
        self._sock.close()

    def _receive_bytes(self) -> tuple[bytes, list[int]]:
        return self._sock.recv(CHUNK), []

    def _receive_both(self) -> tuple[bytes, list[int]]:
        data, descriptors, _, _ = socket.recv_fds(self._sock, CHUNK, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        return data, descriptors

    def _flush_one(self) -> None:
        data, descriptors = self._out[0]
        if descriptors:
            sent = socket.send_fds(self._sock, [data], descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
        elif self._blocking:
            self._sock.sendall(data)
            sent = len(data)
        else:
            data = self._joined()
            sent = self._sock.send(data)
        self._out.popleft()
        if sent < len(data):
            self._out.appendleft((data[sent:], ()))

    def _joined(self) -> bytes:
        # Many small frames in one system call: up to a chunk, and never past one that carries a descriptor.
        parts = [self._out.popleft()[0]]
        total = len(parts[0])
        while self._out and total < CHUNK and not self._out[0][1]:
            parts.append(self._out.popleft()[0])
            total += len(parts[-1])
        data = b"".join(parts) if len(parts) > 1 else parts[0]
        self._out.appendleft((data, ()))
        return data

    def _forget_unsent(self) -> None:
        for _, descriptors in self._out:
            for descriptor in descriptors:
                os.close(descriptor)
        self._out.clear()
