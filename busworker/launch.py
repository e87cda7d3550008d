"""How this process was started, and how it starts itself again: the same command, environment and folder, the same pid.

What must not be anybody else's in between goes along: the descriptor of the instance's lock, and the control socket,
whose clients wait meanwhile.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from busworker import procfs

HANDOVER = "BUSWORKER_HANDOVER"
"""Names, for the next program of this process, the descriptors that it takes over; removed as soon as it is read."""
COMMAND = "start"
ONLY_CHECK = "--only-check"
"""The hidden option by which `start` does all that can fail before the first fork, and no more."""

FITS = "fits"
"""What it then prints, before what stands for the service that would run."""
MANAGER = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""By these a service manager is reached (sd_notify(3)): for the service itself alone."""


class Handover(NamedTuple):
    """Descriptors that go from one program of this process to the next: the sockets are `Server.hand_over`'s."""

    lock: int
    sockets: tuple[int, ...]

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them."""
        return (self.lock, *self.sockets)


@dataclass(frozen=True, slots=True)
class Launch:
    """A start of `busworker start`.

    Attributes:
        python: the interpreter and its options, up to busworker's own arguments.
        arguments: those, from the command's name on.
        environment: before the application could change it.
        folder: the current one, as the shell named it: where that is a link, the next start follows it anew.
        children: the processes that were there already, as where a shell script ends by `exec busworker start`.
        handover: what this program took over from the last one of this process.
    """

    python: tuple[str, ...]
    arguments: tuple[str, ...]
    environment: dict[str, str]
    folder: str
    children: frozenset[int]
    handover: Handover | None

    @classmethod
    def current(cls) -> Launch | None:
        """This process's own. Call it before anything else can have changed it.

        Returns:
            None: another program called us, or the interpreter can't tell its path.
        """
        handover = _taken()
        arguments = sys.argv[1:]
        python = sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]
        if not sys.executable or arguments[:1] != [COMMAND] or [*python, *arguments] != sys.orig_argv[1:]:
            return None
        children = frozenset(procfs.children())
        return cls((sys.executable, *python), tuple(arguments), dict(os.environ), _folder(), children, handover)

    def check(self, variables: Mapping[str, str]) -> NoReturn:
        """Replaces this process by one that only checks whether such a start would succeed, with these variables too.

        Raises:
            OSError: it can't be run.
        """
        environment = {name: value for name, value in self.environment.items() if name not in MANAGER}
        self._run((self.arguments[0], ONLY_CHECK, *self.arguments[1:]), environment | dict(variables))

    def again(self, handover: Handover) -> NoReturn:
        """Replaces this process by a new start of itself.

        Raises:
            OSError: it can't be run.

        Guarantees:
            What is blocked in the signal mask stays blocked, and what is pending pending (execve(2)).
        """
        for descriptor in handover.descriptors:
            os.set_inheritable(descriptor, True)
        told = " ".join(map(str, (os.getpid(), *handover.descriptors)))
        self._run(self.arguments, self.environment | {HANDOVER: told})

    def _run(self, arguments: tuple[str, ...], environment: dict[str, str]) -> NoReturn:
        with suppress(OSError):  # removed: the command says what it lacks there
            os.chdir(self.folder)
        os.execve(self.python[0], [*self.python, *arguments], environment)


def _taken() -> Handover | None:
    told = os.environ.pop(HANDOVER, "").split()
    if told[:1] != [str(os.getpid())]:  # it was meant for our parent
        return None
    lock, *sockets = map(int, told[1:])
    handover = Handover(lock, tuple(sockets))
    for descriptor in handover.descriptors:
        os.set_inheritable(descriptor, False)
    return handover


def _folder() -> str:
    named = os.environ.get("PWD", "")
    try:
        return named if named and Path(named).samefile(".") else str(Path.cwd())
    except OSError:
        return named or "/"
