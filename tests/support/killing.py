"""Forked processes that die by kill -9 at a chosen step of their work."""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import apsw

from busworker.transports import engine

CHANGES = frozenset(["mkdir", "chmod", "chown", "remove", "rename", "link", "flock", "lockf"])
"""The audit events of `os` and `fcntl` that are steps. An `open` is one too, unless it only reads."""

_ENGINE = os.path.dirname(engine.__file__)  # noqa: PTH120  compared with the file names of code objects

Arm = Callable[[], None]


def killed_before(step: int, work: Callable[[Arm], object], *, lines: bool = False) -> bool:
    """Runs `work(arm)` in a forked child that is killed before its `step`th step after it has called `arm`.

    A step is an SQL statement (each row of an `executemany` is one) or a call to the operating system that changes
    a file; with `lines` each line of the engine besides.

    Returns:
        Whether it was killed at that step. Else it came to the end of its work, and was killed there: no child
        says goodbye.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _die_after(work, step, write, lines)
    os.close(write)
    with os.fdopen(read) as report:
        told = report.read()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the child has ended in another way"
    assert told in ("", "end"), told
    return not told


def answer_of(question: Callable[[], object]) -> Any:
    """What `question` returns in a forked child, by way of JSON; fails with what it raises."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _answer(question, write)
    os.close(write)
    with os.fdopen(read) as answer:
        told = json.load(answer)
    os.waitpid(child, 0)
    assert "error" not in told, told["error"]
    return told["value"]


def _die_after(work: Callable[[Arm], object], step: int, write: int, lines: bool) -> None:
    steps = _Steps(step, lines)
    try:
        work(steps.arm)
        steps.disarm()
        os.write(write, b"end")
    except BaseException:  # noqa: BLE001  told, and fatal
        os.write(write, traceback.format_exc().encode())
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


def _answer(question: Callable[[], object], write: int) -> None:
    told: dict[str, object]
    try:
        told = {"value": question()}
    except BaseException:  # noqa: BLE001  told to the parent, which fails
        told = {"error": traceback.format_exc()}
    with os.fdopen(write, "w") as answer:
        json.dump(told, answer)
    os._exit(0)


class _Steps:
    """Counts the steps of this process from `arm` on, and kills it before the fatal one."""

    def __init__(self, fatal: int, lines: bool) -> None:
        self._left = fatal
        self._armed = False
        self._lines = lines
        apsw.connection_hooks.append(lambda connection: connection.set_exec_trace(self._statement))

    def arm(self) -> None:
        sys.addaudithook(self._audit)
        self._armed = True
        if self._lines:
            sys.settrace(self._call)

    def disarm(self) -> None:
        sys.settrace(None)
        self._armed = False

    def _step(self) -> None:
        if self._armed:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)

    def _statement(self, *_: object) -> bool:
        self._step()
        return True

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event.rpartition(".")[2] in CHANGES or (event == "open" and arguments[2] & os.O_ACCMODE):
            self._step()

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(_ENGINE) else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self._step()
        return self._line
