"""The control socket's protocol, from both sides."""

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busworker import places
from busworker.errors import ConfigurationError, ControlError
from busworker.ipc import control
from busworker.ipc.instance import Identity, held
from tests.support import Home


@pytest.fixture
def folder(home: Home, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime folder of the test, which `control.running` looks into."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home.runtime))
    return home.runtime / "busworker"


class Answering:
    """A service that gives one answer to one client."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self.listener = control.listen(path)
        self.request = b""
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self.listener.accept()
        with client:
            self.request = client.recv(64 * 1024)
            assert control.peer_allowed(client)
            client.sendall(self._answer)

    def close(self) -> None:
        self._thread.join()
        self.listener.close()


@pytest.fixture
def services() -> Iterator[list[Answering]]:
    """Services to be closed at the end."""
    made: list[Answering] = []
    yield made
    for service in made:
        service.close()


def test_a_request_goes_and_its_answer_comes_back(folder: Path, services: list[Answering]) -> None:
    services.append(Answering(folder / "a.sock", control.encode_answer({"pid": 7})))
    assert control.ask(folder / "a.sock", "scale", {"channel": "a", "processes": 2}, 5) == {"pid": 7}
    request = control.parse_request(services[0].request.strip())
    assert request == control.Request("scale", {"channel": "a", "processes": 2})
    assert msgspec.json.decode(services[0].request)["version"] == 1


def test_a_refusal_carries_its_exit_code(folder: Path, services: list[Answering]) -> None:
    services.append(Answering(folder / "a.sock", control.encode_error("no channel 'x'", 66)))
    with pytest.raises(control.Refused, match="no channel 'x'") as caught:
        control.ask(folder / "a.sock", "scale", {}, 5)
    assert caught.value.exit_code == 66


@pytest.mark.parametrize("answer", [b"nonsense\n", b"", b'{"ok":', b"[]\n", b'{"ok":"yes"}\n'])
def test_an_answer_without_sense_is_an_error(folder: Path, services: list[Answering], answer: bytes) -> None:
    services.append(Answering(folder / "a.sock", answer))
    with pytest.raises(ControlError):
        control.ask(folder / "a.sock", "status", {}, 5)


def test_an_answer_that_does_not_end_is_broken_off(folder: Path, services: list[Answering]) -> None:
    services.append(Answering(folder / "a.sock", b"x" * (control.MOST_BYTES + 1)))
    with pytest.raises(ControlError, match="too long"):
        control.ask(folder / "a.sock", "status", {}, 5)


def test_a_service_that_does_not_answer_is_not_waited_for(folder: Path) -> None:
    with control.listen(folder / "a.sock"), pytest.raises(ControlError, match="didn't answer status") as caught:
        control.ask(folder / "a.sock", "status", {}, 0.01)
    assert not isinstance(caught.value, control.NotRunning)


def test_nobody_there_is_told_apart(folder: Path) -> None:
    control.listen(folder / "stale.sock").close()
    for name in ("stale.sock", "none.sock"):
        with pytest.raises(control.NotRunning):
            control.ask(folder / name, "status", {}, 5)


def test_running_services_are_found_and_stale_sockets_passed_over(folder: Path, services: list[Answering]) -> None:
    control.listen(folder / "stale.sock").close()
    who = {"service": "email", "instance": "blue", "broker": "memory://", "pid": 7, "state": "running"}
    services.append(Answering(folder / "a.sock", control.encode_answer(who)))
    services.append(Answering(folder / "b.sock", control.encode_answer({"odd": True})))
    assert control.running() == [control.Instance("email", "blue", "memory://", 7, folder / "a.sock")]


def test_one_that_hangs_does_not_hold_up_a_question_to_another(
    folder: Path, services: list[Answering], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(home.state))
    email = {"service": "email", "instance": "blue", "broker": "memory://", "pid": 7}
    services.append(Answering(folder / "email.sock", control.encode_answer(email)))
    lock = places.lock_file("shop")
    lock.parent.mkdir(parents=True)
    # Who asks the one that hangs waits in vain, and finds it silent.
    with control.listen(folder / "shop.sock"), held(lock, Identity("shop", "default", "memory://", 8)):
        found = control.running(lambda who: who.service == "email")
    assert found == [control.Instance("email", "blue", "memory://", 7, folder / "email.sock")]


def test_the_socket_is_this_users_alone_and_a_stale_one_is_replaced(folder: Path) -> None:
    before = os.umask(0)
    try:
        control.listen(folder / "a.sock").close()
        with control.listen(folder / "a.sock"):
            modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "a.sock")]
        assert modes == [0o700, 0o600]
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120)
    with pytest.raises(ConfigurationError, match="control socket"):
        control.listen(path)
    with pytest.raises(ControlError):
        control.ask(path, "status", {}, 1)


def test_a_peer_of_another_kind_of_socket_is_not_allowed() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        assert not control.peer_allowed(sock)


def test_another_version_is_refused() -> None:
    with pytest.raises(ControlError, match="version 2"):
        control.parse_request(b'{"version":2,"command":"status"}')


def test_a_result_that_is_no_json_becomes_an_error() -> None:
    for result in ("\udc80", object()):
        line = control.encode_answer({"x": result})
        assert line.endswith(b"\n")
        with pytest.raises(control.Refused, match="can't be sent"):
            control.parse_answer(line)


@given(st.binary())
def test_any_bytes_are_a_request_or_a_control_error(line: bytes) -> None:
    try:
        control.parse_request(line)
    except ControlError:
        pass


@given(st.text(), st.dictionaries(st.text(), st.integers(-(2**53), 2**53) | st.text()))
def test_requests_survive_the_wire(command: str, arguments: dict[str, object]) -> None:
    line = control.encode_request(command, arguments)
    assert line.count(b"\n") == 1
    assert control.parse_request(line) == control.Request(command, arguments)
