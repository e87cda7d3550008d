"""What a worker's death tells its consumer, and so the dead letter. Pure."""

from __future__ import annotations

from busworker.ipc.frames import Cause, ProcessDied
from busworker.supervisor.child import Death
from busworker.supervisor.state import Fate, Worker
from busworker.units import megabytes

OOM = "; the kernel's OOM killer has just ended a process here, so it was probably that"


def notice(worker: Worker, ended: Death, stacks: str | None, *, oom: bool) -> ProcessDied:
    """The frame that tells of a reaped worker; `oom`: the OOM killer has struck."""
    return ProcessDied(
        slot=worker.slot,
        incarnation=worker.incarnation,
        pid=worker.pid,
        signal=ended.signal,
        exit_code=ended.exit_code,
        cause=worker.killed or "died",
        number=worker.killed_number,
        details=worker.details or _end(ended, oom=oom),
        traceback=stacks,
        rss=worker.rss if worker.killed == "memory_limit" else ended.rss,
    )


def expected(worker: Worker, ended: Death, *, stopping: bool) -> bool:
    """Whether nobody need wonder about this death: we wanted it."""
    told = worker.retiring or worker.finishing_at is not None or stopping
    return worker.killed is not None or (told and ended.exit_code == 0)


def fate(worker: Worker, ended: Death, *, stopping: bool) -> Fate | None:
    """How a worker's death is counted; None: it was to end."""
    match worker.killed:
        case "stopped":
            return None
        case "time_limit" | "memory_limit":
            return worker.killed
        case "died":
            return "killed"
        case None:
            return None if expected(worker, ended, stopping=stopping) else by_itself(ended)


def by_itself(ended: Death) -> Fate:
    """How the death of a process is counted that nobody has killed, or told to end."""
    return "exit" if ended.signal is None else "signal"


def last_words(worker: Worker, ended: Death, message_id: str, delay: float) -> str:
    """What the log says of a worker's end; `delay`: seconds until its replacement starts."""
    how = "ended" if worker.killed is None and expected(worker, ended, stopping=False) else "died"
    executing = f", executing message {message_id}" if message_id else ""
    later = f", its replacement starts in {delay:.1f} s" if delay > 0 else ""
    return f"{how}, pid {worker.pid}: {ended}{executing}{later}"


def over_limit(worker: Worker, cause: Cause, ran: float, memory_limit: int | None) -> str:
    """Why a worker is killed at a limit, the hard one of time or that of memory; `ran` is seconds."""
    if cause == "time_limit":
        return f"the handler still ran after {ran:.1f} s, when time_limit and kill_after were over"
    limit = megabytes(memory_limit or 0)
    return f"the worker had {megabytes(worker.rss)} resident, over the memory_limit of {limit}"


def _end(ended: Death, *, oom: bool) -> str:
    how = f"was ended by {ended.signal}" if ended.signal else f"exited with code {ended.exit_code}"
    return f"the worker {how} while it executed this message{OOM if oom else ''}"
