"""The control socket's protocol, for both sides: a Unix stream, one line of JSON each way, then it is closed.

A request is `{"version":1,"command":"status","arguments":{}}`, an answer `{"ok":true,"result":…}` or
`{"ok":false,"error":"text","exit_code":69}`. The supervisor serves it, the command line asks. The folder has
mode 0700, the socket 0600, and the peer's user is checked.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from busworker import places
from busworker.errors import ConfigurationError, ControlError
from busworker.ipc.instance import Identity, holder

log = logging.getLogger("busworker.control")

VERSION = 1
MOST_BYTES = 1024 * 1024
"""Bytes of a line."""
BACKLOG = 1024
"""Connections that wait to be taken; the kernel may allow less (net.core.somaxconn)."""
IDENTIFY_WITHIN = 5.0
"""Seconds that each service has to say who it is: it may just start again, on a busy machine."""
_TIMEVAL = struct.Struct("@ll")  # struct timeval: seconds, microseconds (socket(7))
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class NotRunning(ControlError):
    """Nobody listens on that socket."""


class NotAnswering(ControlError):
    """Somebody listens on that socket, and didn't answer in time. It is unknown whether it did what was asked."""


class Refused(ControlError):
    """The service answered with an error; `exit_code` is what the command ends with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Request(msgspec.Struct, frozen=True):
    """What a client asks for."""

    command: str
    arguments: dict[str, object] = {}
    version: int = VERSION


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the service says: `result` if it is ok, else `error` and the exit code of the command."""

    ok: bool
    result: object = None
    error: str = ""
    exit_code: int = 1


class Instance(msgspec.Struct, frozen=True):
    """A running service and its socket; `silent`: its supervisor doesn't answer (service "" and pid 0: unknown)."""

    service: str
    instance: str
    broker: str
    pid: int
    path: Path
    silent: bool = False


# Both sides


def encode_request(command: str, arguments: Mapping[str, object]) -> bytes:
    """A request as a line."""
    return msgspec.json.encode(Request(command, dict(arguments))) + b"\n"


def parse_request(line: bytes) -> Request:
    """The request of a line.

    Raises:
        ControlError: it is none, or of a version that isn't known here.
    """
    try:
        request = msgspec.json.decode(line, type=Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ControlError(f"this is no control request: {error}") from error
    if request.version != VERSION:
        raise ControlError(
            f"the request has version {request.version}, this service knows {VERSION}: use its busworker"
        )
    return request


def encode_answer(result: object) -> bytes:
    """An answer that all is well, as a line."""
    return _line(Answer(ok=True, result=result))


def encode_error(error: str, exit_code: int) -> bytes:
    """An answer that it isn't, as a line; the command prints the text and ends with the exit code."""
    return _line(Answer(ok=False, error=error, exit_code=exit_code))


def parse_answer(line: bytes) -> object:
    """The result in an answer.

    Raises:
        Refused: the answer is an error.
        ControlError: it is no answer.
    """
    try:
        answer = msgspec.json.decode(line, type=Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ControlError(f"the service's answer makes no sense: {error}") from error
    if not answer.ok:
        raise Refused(answer.error, answer.exit_code)
    return answer.result


def _line(answer: Answer) -> bytes:
    try:
        return msgspec.json.encode(answer) + b"\n"
    except (TypeError, ValueError, RecursionError) as error:  # ValueError: a lone surrogate has no UTF-8
        return msgspec.json.encode(Answer(ok=False, error=f"the answer can't be sent: {error!a}")) + b"\n"


# The service's side


def listen(path: Path) -> socket.socket:
    """A listening socket at that path, mode 0600 in a folder of mode 0700; a dead service's is replaced.

    Call it while holding the instance's lock, in a process without threads (the umask is the process's). It belongs to
    whoever calls; a path that is removed meanwhile isn't seen from it.

    Raises:
        ConfigurationError: the folder can't be used, or the path is too long for a socket (108 bytes).
    """
    places.private_folder(path.parent)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"control socket {path} can't be made: {error}; set XDG_RUNTIME_DIR") from error
    finally:
        os.umask(before)
    return listener


def peer_allowed(sock: socket.socket) -> bool:
    """Whether the process at the other end runs as this user or as root."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return False
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return uid in (os.getuid(), 0)


# The command's side


def ask(path: Path, command: str, arguments: Mapping[str, object], timeout: float) -> object:
    """What a running service answers.

    Args:
        path: its socket.
        command: what to do.
        arguments: of the command.
        timeout: seconds for all of it.

    Raises:
        NotRunning: nobody listens there.
        Refused: the service answered with an error.
        NotAnswering: it didn't answer in time.
        ControlError: it didn't answer with sense. It is unknown whether it did it.
    """
    until = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            _connect(sock, path, timeout)
            sock.sendall(encode_request(command, arguments))
            return parse_answer(_received(sock, until))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunning(f"no service listens at {path}: start it") from error
        except TimeoutError as error:
            raise NotAnswering(f"the service at {path} didn't answer {command} within {timeout:g} s") from error
        except BlockingIOError as error:  # its backlog was full all the time
            raise NotAnswering(f"the service at {path} takes no more connections: it answers nobody") from error
        except OSError as error:
            raise ControlError(f"the service at {path} can't be asked: {error}") from error


def _connect(sock: socket.socket, path: Path, timeout: float) -> None:
    """Waits for room in the backlog, as only a blocking socket does: others are told EAGAIN at once (connect(2))."""
    seconds, part = divmod(timeout, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(seconds), int(part * 1e6)))
    sock.connect(str(path))
    sock.settimeout(timeout)


def running(meant: Callable[[Identity], bool] | None = None) -> list[Instance]:
    """The services of this user that run now, those that don't answer too; what a dead one left is passed over.

    Args:
        meant: whether it can be one that has written this down of itself (`instance.held`); if not it isn't asked, and
            one that hangs can't hold up a question to another. None: all are asked.
    """
    paths = sorted(places.runtime_dir().glob("*.sock"))
    if meant is not None:
        written = {path: holder(places.lock_file(path.stem)) for path in paths}
        paths = [path for path, who in written.items() if who is None or meant(who)]
    found = [_identified(path) for path in paths]
    return [instance for instance in found if instance is not None]


def _identified(path: Path) -> Instance | None:
    try:
        who = msgspec.convert(ask(path, "identify", {}, IDENTIFY_WITHIN), Identity)
    except NotRunning:
        return None
    except NotAnswering:
        who = holder(places.lock_file(path.stem)) or Identity("", "", "", listener(path) or 0)
        return Instance(who.service, who.instance, who.broker, who.pid, path, silent=True)
    except (ControlError, msgspec.ValidationError) as error:
        log.warning("%s", error)
        return None
    return Instance(who.service, who.instance, who.broker, who.pid, path)


def listener(path: Path) -> int | None:
    """The process that listens on a socket; None if none does, 0 if it can't be told which one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(path))
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except BlockingIOError:
            return 0
        except OSError:
            return None
    pid, _, _ = _CREDENTIALS.unpack(raw)
    return int(pid)


def _received(sock: socket.socket, until: float) -> bytes:
    data = bytearray()
    while b"\n" not in data:
        sock.settimeout(max(until - time.monotonic(), 0.001))
        part = sock.recv(64 * 1024)
        data += part
        if not part or len(data) > MOST_BYTES:
            raise ControlError("the service broke off its answer" if not part else "the service's answer is too long")
    return bytes(data.partition(b"\n")[0])
