"""The proxy through which tests reach a broker: each of its faults is what a real network would do."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

PATIENCE = 5.0
SHORT = 0.2


class Echo:
    """A server that sends back what it gets, and says "bye" when it gets no more."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"amqp://guest:guest@127.0.0.1:{self._listening.getsockname()[1]}/bus?heartbeat=3"
        self.ends: list[str] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._answer, args=(connection,)))
            self._threads[-1].start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
                self.ends.append("FIN")
                connection.sendall(b"bye")
            except OSError as error:
                self.ends.append(type(error).__name__)


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.url) as proxy:
        yield proxy


def connected(proxy: Proxy) -> socket.socket:
    """A connection through the proxy to the broker."""
    port = int(proxy.url.partition("127.0.0.1:")[2].partition("/")[0])
    client = socket.create_connection(("127.0.0.1", port), PATIENCE)
    try:
        assert said(client, b"hello") == b"hello"
    except BaseException:
        client.close()
        raise
    return client


def said(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return received(client, len(data))


def received(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := client.recv(size - len(data))):
        data += more
    return data


def test_it_passes_everything_on_for_many_at_once(proxy: Proxy, echo: Echo) -> None:
    assert proxy.url.startswith("amqp://guest:guest@127.0.0.1:")
    assert proxy.url.endswith("/bus?heartbeat=3")
    clients = [connected(proxy) for _ in range(8)]
    assert proxy.accepted == proxy.connections == 8
    large = bytes(range(256)) * 4096
    for client in clients:
        with client:
            sending = threading.Thread(target=client.sendall, args=(large,))
            sending.start()
            assert received(client, len(large)) == large
            sending.join()


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
def test_a_cut_ends_all_connections_and_takes_new_ones(proxy: Proxy, echo: Echo, reset: bool) -> None:
    with connected(proxy) as one, connected(proxy) as other:
        assert proxy.cut(reset=reset) == 2
        for client in (one, other):
            if reset:
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
            else:
                assert client.recv(1) == b""
        assert proxy.connections == 0
    connected(proxy).close()


def test_refused_connections_are_refused_and_those_there_are_stay(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connected(proxy)
        assert said(client, b"still") == b"still"
        proxy.take()
        connected(proxy).close()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_delay_holds_one_direction_up_and_keeps_the_order(proxy: Proxy, direction: str) -> None:
    with connected(proxy) as client:
        proxy.delay(**{direction: SHORT})
        began = time.monotonic()
        assert said(client, b"one") == b"one"
        assert SHORT <= time.monotonic() - began < PATIENCE
        client.sendall(b"late")
        proxy.delay()
        client.sendall(b"two")
        assert received(client, 7) == b"latetwo"


def test_what_is_frozen_comes_when_it_thaws(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.freeze()
        client.sendall(b"x" * 1_000_000)  # taken all the same: who sends doesn't notice
        client.settimeout(SHORT)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(PATIENCE)
        proxy.thaw()
        assert received(client, 1_000_000) == b"x" * 1_000_000


def test_one_half_is_closed_and_the_other_goes_on(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client:
        assert proxy.half_close("up") == 1
        assert received(client, 3) == b"bye"
        assert echo.ends == ["FIN"]
    with connected(proxy) as client:
        assert proxy.half_close("down") >= 1
        assert client.recv(1) == b""
        client.sendall(b"nobody tells")
        assert proxy.half_close("down") == 0
    wait_until(lambda: proxy.connections == 0, PATIENCE, "the end of both")


def test_without_a_broker_a_connection_is_taken_and_reset(echo: Echo) -> None:
    with Proxy("amqp://127.0.0.1:1/") as proxy, pytest.raises(ConnectionResetError):
        connected(proxy)
