"""One session of a user: a home, a folder in it, the installed command, and services that run on."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import busworker
from docs.shown.page import Marks, Step, commands, renamed, span, translated

PATIENCE = 40.0
"""Seconds that are waited for a text, or for a command."""
POLL = 0.02
RUNNING = "the service is running"
"""What a `busworker start` is waited for, if no mark says otherwise."""
ROOT = Path(__file__).parents[2]
SITE = "/home/ada/mail/.venv/lib/python3.11/site-packages"


class Terminal:
    """A command that goes on, and what it has written that wasn't looked at yet."""

    def __init__(self, command: str, output: Path, folder: Path, env: Mapping[str, str]) -> None:
        self._output = output
        self._seen = 0
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=folder, env=env, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    @property
    def said(self) -> str:
        """All that it has written, in whole lines."""
        return self._output.read_text().rpartition("\n")[0]

    @property
    def service(self) -> str | None:
        """The name of the service that runs here."""
        found = re.search(r" supervisor ([a-z0-9_-]+): ", self.said)
        return found and found[1]

    def look(self, marks: Marks) -> str:
        """The next lines, or those that the marks tell, once they are there."""
        wait_until(lambda: span(self._next(), marks) is not None or self.ended)
        lines = self._next()
        if (found := span(lines, marks)) is None:
            return "\n".join([*lines, f"[no {marks.until!r} within {PATIENCE:g} s]"])
        self._seen += found[1]
        return "\n".join(lines[slice(*found)])

    def end(self) -> None:
        """Ends it, in order if it can."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _next(self) -> list[str]:
        return self.said.splitlines()[self._seen :]


class Session:
    """What a page's reader does. Its bus is that of the home, unless another is given."""

    def __init__(self, broker: str | None = None) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="bw-", dir="/tmp"))
        self._folder = self._home / "mail"
        for name in ("mail", "run", "tmp"):
            (self._home / name).mkdir(mode=0o700)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BUSWORKER_", "XDG_"))}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {
            "HOME": str(self._home),
            "REPOSITORY": str(ROOT),
            "TMPDIR": str(self._home / "tmp"),
            "XDG_RUNTIME_DIR": str(self._home / "run"),
        }
        self._env = kept | own | {"PATH": path} | ({"BUSWORKER_BROKER": broker} if broker else {})
        self._terminals: list[Terminal] = []
        self._names: dict[str, str] = {}

    def close(self) -> None:
        """Ends what still runs, and removes the home."""
        for terminal in self._terminals:
            terminal.end()
        shutil.rmtree(self._home)

    def take(self, step: Step) -> str | None:
        """Does a step; the text that belongs into its block, if it is one that is filled in."""
        for command in step.marks.unseen:
            self._run(command)
        text = None
        if step.marks.file is not None:
            self._folder.joinpath(step.marks.file).write_text(step.text + "\n")
        elif step.marks.log is not None:
            text = self._plain(self._terminal(step.marks.log).look(step.marks))
        elif step.language == "console" and not step.marks.not_run:
            return self._console(step)
        if text is not None:
            self._names = {**renamed(step.text, text), **self._names}
        return text

    def _console(self, step: Step) -> str:
        *first, last = commands(step.text)
        others = replace(step.marks, awaits=None)
        return "\n".join([*(self._shown(*one, others) for one in first), self._shown(*last, step.marks)])

    def _shown(self, command: str, before: str, marks: Marks) -> str:
        command = translated(command, self._names)
        output = self._plain(self._run(command, marks))
        until = time.monotonic() + PATIENCE
        while marks.awaits and not re.search(marks.awaits, output, re.MULTILINE) and time.monotonic() < until:
            output = self._plain(self._run(command, marks))
        self._names = {**renamed(before, output), **self._names}
        return f"$ {command}\n{output}" if output else f"$ {command}"

    def _run(self, command: str, marks: Marks | None = None) -> str:
        if (command.startswith("busworker start ") and not command.endswith("&")) or (marks and marks.until):
            return self._started(command, marks or Marks())
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        lines = done.stdout.splitlines()
        begin, end = span(lines, marks or Marks()) or (0, len(lines))
        return "\n".join(lines[begin:end])

    def _started(self, command: str, marks: Marks) -> str:
        output = self._home / f"terminal-{len(self._terminals)}"
        terminal = Terminal(command, output, self._folder, self._env)
        self._terminals.append(terminal)
        return terminal.look(marks if marks.until else replace(marks, until=RUNNING))

    def _terminal(self, service: str) -> Terminal:
        return next(one for one in reversed(self._terminals) if one.service == service)

    def _plain(self, text: str) -> str:
        """Without what only our folders and this machine are called."""
        site = str(Path(busworker.__file__).parents[1])
        for ours, readers in (
            (str(self._home / "tmp"), "/tmp"),
            (str(self._home), "/home/ada"),
            (site, SITE),
            (f"host {socket.gethostname()}", "host vm"),
            (f'"host": "{socket.gethostname()}"', '"host": "vm"'),
        ):
            text = text.replace(ours, readers)
        return text.rstrip("\n")


def wait_until(done: Callable[[], bool]) -> None:
    """Waits for a condition, as long as there is patience."""
    until = time.monotonic() + PATIENCE
    while not done() and time.monotonic() < until:
        time.sleep(POLL)
