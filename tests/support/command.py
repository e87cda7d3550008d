"""The installed `busworker`, run as its users run it."""

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from tests.support.home import Home
from tests.support.processes import Member, kill, members
from tests.support.waiting import wait_until

END = 5.0
"""Seconds for the processes of a service to follow their supervisor."""


class Service:
    """A running `busworker`, in a session of its own: `pid` is the supervisor's."""

    def __init__(self, process: subprocess.Popen[bytes], stdout: Path, stderr: Path) -> None:
        self._process = process
        self._stdout = stdout
        self._stderr = stderr

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self._process.pid

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self._stdout.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has written so far: its log."""
        return self._stderr.read_text(errors="replace")

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative, the signal that ended it."""
        return self._process.poll()

    def wait_log(self, text: str, timeout: float = 20.0) -> str:
        """The first line of stderr, else stdout, with `text`; fails at once when the service has ended."""
        return wait_until(lambda: self._line(text), timeout, lambda: f"{text!r} from\n{self._told()}")

    def wait(self, timeout: float = 40.0) -> int:
        """The exit code, once the supervisor has ended by itself."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"the service still runs after {timeout:g} s:\n{self._told()}") from error

    def signal(self, number: int) -> None:
        """Sends the supervisor a signal."""
        self._process.send_signal(number)

    def terminate(self, timeout: float = 40.0) -> int:
        """An orderly stop: TERM, then the exit code. Fails if a process of the service outlives it."""
        self.signal(signal.SIGTERM)
        code = self.wait(timeout)
        self._nothing_left()
        return code

    def kill(self) -> None:
        """Kill -9 of the supervisor alone. Its processes must follow, or the test fails at its end."""
        self._process.kill()
        self._process.wait()

    def kill_tree(self) -> None:
        """Kill -9 of every process of the session, as a crash of the machine."""
        self._process.kill()
        while left := self.tree():
            kill(left)
        self._process.wait()

    def tree(self, role: str | None = None, subject: str | None = None) -> list[Member]:
        """The living processes, orphans too, of that role and subject: `email.welcome`, `email.welcome/1`."""
        return [
            member
            for member in members([self.pid])
            if role in (None, member.role) and subject in (None, member.subject)
        ]

    def _line(self, text: str) -> str | None:
        ended = self.exit_code is not None  # looked at before the output: the last words are then in it
        lines = (self.stderr + self.stdout).splitlines()
        found = next((line for line in lines if text in line), None)
        if found is None and ended:
            raise AssertionError(f"the service has ended without {text!r}:\n{self._told()}")
        return found

    def _nothing_left(self) -> None:
        wait_until(lambda: not self.tree(), END, lambda: f"the end of {self.tree()}\n{self._told()}")

    def _told(self) -> str:
        return f"exit code {self.exit_code}\nstdout:\n{self.stdout}\nstderr:\n{self.stderr}"


class Command:
    """Runs and starts `busworker` in one home; its current folder is the home's."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._services: list[Service] = []
        self._numbers = count(1)

    def run(
        self,
        *args: str,
        input: str | None = None,
        timeout: float = 30.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """What `busworker ARGS` said, once it has ended.

        Args:
            input: its stdin; None is empty.
            timeout: seconds; then all of it is killed and the test fails.
            env: variables on top of the home's.
        """
        service = self._launch(args, env, (input or "").encode())
        try:
            code = service.wait(timeout)
        except AssertionError:
            service.kill_tree()
            raise
        return subprocess.CompletedProcess(["busworker", *args], code, service.stdout, service.stderr)

    def start(self, *args: str, env: Mapping[str, str] | None = None) -> Service:
        """`busworker ARGS`, left running until the test stops it, or ends."""
        return self._launch(args, env, b"")

    def close(self) -> None:
        """Kills the supervisors that still run. Fails if their processes don't follow, and kills these."""
        for service in self._services:
            service.kill()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self._left(), END, "the end of all processes")
        left = self._left()
        kill(left)
        assert not left, "\n".join(["processes outlived their supervisor:", *map(repr, left)])

    def _left(self) -> list[Member]:
        return members([service.pid for service in self._services], self._home.marker)

    def _launch(self, args: tuple[str, ...], env: Mapping[str, str] | None, given: bytes) -> Service:
        number = next(self._numbers)
        stdout, stderr = (self._home.logs / f"{number}.{name}" for name in ("stdout", "stderr"))
        # Files, not pipes: nobody blocks on a full one, and nobody who keeps one open holds up the test.
        with tempfile.TemporaryFile() as stdin, stdout.open("wb") as out, stderr.open("wb") as err:
            stdin.write(given)
            stdin.seek(0)
            process = subprocess.Popen(
                [executable(), *args],
                stdin=stdin,
                stdout=out,
                stderr=err,
                cwd=self._home.path,
                env=self._home.env | dict(env or {}),
                start_new_session=True,
            )
        service = Service(process, stdout, stderr)
        self._services.append(service)
        return service


def executable() -> Path:
    """The console script beside this Python."""
    path = Path(sys.executable).with_name("busworker")
    if not path.exists():
        raise AssertionError(f"{path} is missing: install the project into this Python (pip install -e .)")
    return path
