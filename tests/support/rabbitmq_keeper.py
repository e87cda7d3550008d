"""The RabbitMQ node that all tests of a run share, and the process that keeps it.

The keeper is a child of the process that runs pytest (with xdist, of the one that hands out the tests). It
boots the node when the first test asks, and hands out a new virtual host for each request. It ends, with
everything it started, when its stdin does, so also when pytest is killed.
"""

import ctypes
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from urllib.parse import quote

import psutil

from tests.support.certificates import Certificates
from tests.support.rabbitmq import Missing, Node, ensure_installed
from tests.support.waiting import wait_until

BATCH = 16
ODD = "ä/b%2F@:#;? +&=[é]'\"\\{number}"
"""A name of what a URL must write as %-codes."""
SECRET = "SECRET"
"""The end of an odd user's password."""
PATIENCE = 110.0
"""Seconds for an answer: RabbitMQ may have to be installed and booted."""

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class Keeper:
    """Held by the process that runs pytest: the keeper, and the folder of the run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with (folder / "keeper.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.rabbitmq_keeper", str(folder)],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def missing(self) -> str:
        """Why there was no RabbitMQ; empty if nobody asked, or there was."""
        path = self._folder / "missing"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        """Nothing is left afterwards, neither processes nor the folder."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


class RabbitMQ:
    """The shared node, seen from a test. Making one boots it.

    Raises:
        Missing: RabbitMQ isn't installed, and can't be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.base_url = self._ask("base")

    def new_vhost(self) -> str:
        """The URL of a virtual host that nobody else uses. It goes with the node."""
        return self._ask("vhost")

    def new_odd_vhost(self) -> str:
        """The same with names of odd characters, and a user and a password of that kind."""
        return self._ask("odd")

    def new_tls_vhost(self) -> str:
        """The same by `amqps://`, with certificates; for busworker, not for kombu."""
        return self._ask("tls")

    @property
    def certificates(self) -> Certificates:
        """Those of the node."""
        return Certificates(self._folder / "tls")

    def _ask(self, wish: str) -> str:
        wait_until((self._folder / "socket").exists, PATIENCE, "the keeper of RabbitMQ listens")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self._folder / "socket"))
            connection.sendall(wish.encode())
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile() as answer:
                kind, _, text = answer.read().partition(" ")
        if kind == "missing":
            raise Missing(text)
        assert kind == "ok", f"the keeper of RabbitMQ failed:\n{(self._folder / 'keeper.log').read_text()}"
        return text


class _Desk:
    """The keeper's work: answers wishes one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._node: Node | None = None
        self._ready: deque[str] = deque()
        self._made = 0

    def answer(self, wish: str) -> str:
        try:
            node = self._started()
        except Missing as missing:
            (self._folder / "missing").write_text(str(missing))
            return f"missing {missing}"
        match wish:
            case "base":
                return f"ok {node.url()}"
            case "odd":
                return f"ok {self._odd(node)}"
            case "tls":
                return f"ok {node.tls_url(self._vhost(node))}"
            case _:
                return f"ok {node.url(self._vhost(node))}"

    def close(self) -> None:
        if self._node is not None:
            self._node.close()

    def _started(self) -> Node:
        if self._node is None:
            ensure_installed()
            self._node = Node(self._folder / "rabbitmq", Certificates.make(self._folder / "tls"))
            self._node.start()
        return self._node

    def _vhost(self, node: Node) -> str:
        if not self._ready:
            self._ready.extend(f"t{number}" for number in range(self._made, self._made + BATCH))
            self._made += BATCH
            node.add_vhosts(*self._ready)
        return self._ready.popleft()

    def _odd(self, node: Node) -> str:
        self._made += 1
        name = ODD.format(number=self._made)
        node.add_vhosts(name)
        node.add_user(name, name + SECRET, name)
        code = quote(name, safe="")
        return node.url(code).replace("guest:guest", f"{code}:{code}{SECRET}")


def main(folder: Path) -> None:
    """Serves until stdin ends."""
    _adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    desk = _Desk(folder)
    try:
        _serve(desk, folder / "socket")
    finally:
        desk.close()
        _end_children()
        shutil.rmtree(folder, ignore_errors=True)


def _serve(desk: _Desk, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(str(path.with_suffix(".new")))
        listener.listen(64)
        path.with_suffix(".new").rename(path)  # who sees it can connect
        selector.register(sys.stdin, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while all(key.fileobj is listener for key, _ in selector.select()):
            connection, _ = listener.accept()
            with connection, connection.makefile("rw") as talk:
                talk.write(desk.answer(talk.read()))


def _adopt_orphans() -> None:
    """Erlang's programs start helpers and leave them; as our children they can be found and ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _end_children() -> None:
    while children := psutil.Process().children(recursive=True):
        for child in children:
            child.kill()
        os.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
