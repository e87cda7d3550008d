"""SIGHUP: whether the new code would start is tried in a fresh process, before anything that runs is touched.

That process is this command itself, run by a new interpreter with the same arguments, environment and folder; it ends
before its first fork. This module starts and watches it. What follows is a drain, and then `busworker.launch`.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from contextlib import suppress
from dataclasses import dataclass

from busworker.launch import FITS, Launch
from busworker.log_fields import event
from busworker.supervisor import child
from busworker.supervisor.child import Birth, Death
from busworker.supervisor.remains import VARIABLE

log = logging.getLogger("busworker.supervisor")

PATIENCE = 60.0
"""Seconds for the new code to be imported and checked."""
MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class CheckJob:
    """What the checking process is given: what to run, a file for what it says, and the mark of what it starts."""

    launch: Launch
    file: int
    mark: str


class Reload:
    """The check of the new code.

    Args:
        launch: how this process was started; None: that isn't known, so it can't be started again.
        key: stands for the running service; new code that would run as another doesn't fit.
        mark: of what importing the new code starts.

    Attributes:
        pid: of the checking process, while there is one.
        until: when its time is over; monotonic seconds.
    """

    def __init__(self, launch: Launch | None, key: str, mark: str) -> None:
        self._launch = launch
        self._mark = mark
        self._key = key
        self._file = -1
        self.pid: int | None = None
        self.until = float("inf")

    def begin(self, now: float) -> None:
        """Starts a check, unless one is going on."""
        if self.pid is not None:
            log.warning("SIGHUP is ignored: the new code is being checked already", extra=event("reload_ignored"))
        elif self._launch is None:
            told = event("reload_ignored")
            log.error("SIGHUP is ignored: this service wasn't started by the command busworker start", extra=told)
        else:
            self._fork(self._launch, now)

    def turn(self, now: float) -> bool:
        """Whether the new code has just been found good; what is wrong with it is logged. Never blocks."""
        ended = None if self.pid is None else _reaped(self.pid)
        if ended is not None:
            return self._judge(ended)
        if self.pid is not None and now >= self.until:
            self.cancel()
            self._refuse(f"it was not imported and checked within {PATIENCE:g} s")
        return False

    def cancel(self) -> None:
        """Ends the check without a result."""
        if self.pid is not None:
            with suppress(ProcessLookupError, ChildProcessError):  # a thread that the import has left was quicker
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            self._end()

    def _fork(self, launch: Launch, now: float) -> None:
        with tempfile.TemporaryFile() as file:  # no pipe: whoever the application leaves behind may keep it open
            self._file = os.dup(file.fileno())
        job = CheckJob(launch, self._file, self._mark)
        try:
            self.pid = child.fork(Birth("busworker: check", "check", f"{__name__}:main", job, (self._file,)))
        except OSError as error:
            os.close(self._file)
            self._refuse(f"a process to check it can't be started: {error}")
            return
        with suppress(PermissionError):  # its exec was quicker: by then it has done so itself
            os.setpgid(self.pid, self.pid)  # so that `cancel` finds its group
        self.until = now + PATIENCE
        log.info("SIGHUP: checking the new code, pid %d", self.pid, extra=event("reload_checking"))

    def _judge(self, ended: Death) -> bool:
        said = os.pread(self._file, MOST_BYTES, max(0, os.fstat(self._file).st_size - MOST_BYTES))
        lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
        last = lines[-1] if lines else ""
        self._end()
        if ended.signal is not None or ended.exit_code:
            self._refuse(last.removeprefix("busworker: ") or f"the process that checked it ended with {ended}")
        elif not last.startswith(f"{FITS} "):
            self._refuse("importing it ended the process that checked it (exit code 0)")
        elif last != f"{FITS} {self._key}":
            self._refuse("it is another service, broker or instance now: stop this one and start that")
        else:
            return True
        return False

    def _refuse(self, why: str) -> None:
        log.error("the new code is not used, the old code runs on: %s", why, extra=event("reload_refused"))

    def _end(self) -> None:
        os.close(self._file)
        self.pid, self.until = None, float("inf")


def main(job: CheckJob) -> int:
    """The child: becomes the checking process."""
    for stream in (1, 2):
        os.dup2(job.file, stream)
    job.launch.check({VARIABLE: f"{job.mark}.{os.getpid()}"})


def _reaped(pid: int) -> Death | None:
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # as in `cancel`
        return Death(None, None)
    return child.death(status) if done else None
