"""The processes of a demo: one `busworker start` a service, a publisher, and the commands that steer them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import psutil

from busworker import places, settings
from busworker.demo.record import FOLDER, PUBLISHER
from busworker.errors import BusworkerError, ControlError
from busworker.ipc import control
from busworker.parent import die_with_parent

ANSWER = 10.0
"""Seconds that a service has to answer."""
END = 30.0
"""Seconds that a service has to drain."""


class Worker(msgspec.Struct):
    """A worker, as far as the demo cares."""

    slot: int
    pid: int | None
    state: str
    message: str | None


class Channel(msgspec.Struct):
    """A channel, as far as the demo cares."""

    name: str
    workers: list[Worker]


class Status(msgspec.Struct):
    """What a service answers, as far as the demo cares."""

    state: str
    channels: list[Channel]


class Stage:
    """Where the demo's processes run: one bus, one folder, one instance name.

    Args:
        folder: for records and logs.
        broker: the bus, a URL with password.
    """

    def __init__(self, folder: Path, broker: str) -> None:
        self.folder = folder
        self.broker = broker
        self.instance = f"demo-{os.getpid()}"
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, service: str) -> None:
        """Starts a service; `status` tells when it runs."""
        app = f"busworker.demo.{service}:bus"
        where = ["--instance", self.instance, "--grace", "10"]
        self._running[service] = self._spawn(service, ["busworker", "start", app, *where], stdin=subprocess.DEVNULL)

    def status(self, service: str) -> Status | None:
        """What a service says of itself; None while it can't be asked.

        Raises:
            BusworkerError: it has ended.
        """
        process = self._running[service]
        if process.poll() is not None:
            raise BusworkerError(
                f"service {service} has ended with exit code {process.returncode}: see {self.log(service)}"
            )
        path = places.socket_path(places.instance_key(service, self.broker, self.instance))
        try:
            return msgspec.convert(control.ask(path, "status", {}, ANSWER), Status)
        except ControlError:
            return None

    def publish(self, messages: int) -> None:
        """Starts the process that publishes."""
        self._spawn(PUBLISHER, [f"busworker.demo.{PUBLISHER}", str(messages)], stdin=subprocess.PIPE)

    def go_on(self) -> None:
        """Lets the publisher publish its last part."""
        stdin = self._running[PUBLISHER].stdin
        if stdin is not None:
            try:
                stdin.close()  # the end of the file is the line it waits for
            except BrokenPipeError:
                return  # it has ended: `all_published` says how

    def all_published(self) -> bool:
        """Whether the publisher has ended well.

        Raises:
            BusworkerError: it ended otherwise.
        """
        code = self._running[PUBLISHER].poll()
        if code:
            raise BusworkerError(f"the publisher ended with exit code {code}: see {self.log(PUBLISHER)}")
        return code == 0

    def kill_executing(self, service: str) -> list[str]:
        """Kill -9 of a worker that is executing, if there is one just now; returns which it was."""
        channels = status.channels if (status := self.status(service)) else []
        for channel in channels:
            for worker in channel.workers:
                if worker.state == "executing" and worker.pid and self._killed(service, worker.pid):
                    return [f"{service}.{channel.name}/{worker.slot} (pid {worker.pid}, executing {worker.message})"]
        return []

    def _killed(self, service: str, pid: int) -> bool:
        try:
            process = psutil.Process(pid)
            if process.ppid() != self._running[service].pid:
                return False  # the number is another's by now
            process.kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def command(self, *args: str) -> str:
        """Runs `busworker ARGS` on a service of the demo, and returns how one would write it."""
        full = ["busworker", *args, "--instance", self.instance]
        done = subprocess.run(
            [sys.executable, "-m", *full], env=self._env(), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise BusworkerError(f"`{' '.join(full)}` failed: {done.stderr.strip()}")
        return " ".join(full)

    def stopped(self, service: str) -> str:
        """Stops a service by its command and waits for its end."""
        written = self.command("stop", "--service", service)
        code = self._running.pop(service).wait(END)
        if code != 0:
            raise BusworkerError(f"service {service} ended with exit code {code}: see {self.log(service)}")
        return written

    def close(self) -> None:
        """Ends whatever still runs, at the latest after some seconds by kill -9."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def log(self, name: str) -> Path:
        """The log of a service, or the publisher's."""
        return self.folder / f"{name}.log"

    def _spawn(self, name: str, args: Sequence[str], *, stdin: int) -> subprocess.Popen[bytes]:
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *args],
                env=self._env(),
                stdin=stdin,
                stdout=log,
                stderr=log,
                start_new_session=True,  # an interrupt from the terminal is ours to pass on, once
                preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGTERM),  # noqa: PLW1509  one thread
            )
        self._running[name] = process
        return process

    def _env(self) -> dict[str, str]:
        # There are four, and one address.
        return {**os.environ, FOLDER: str(self.folder), "BUSWORKER_BROKER": self.broker, settings.HTTP.variable: "off"}
