"""What `busworker start` hands to `busworker.run`: plain values, so that neither imports the other."""

from __future__ import annotations

from dataclasses import dataclass

from busworker.bus import Bus
from busworker.launch import Launch
from busworker.retention import Retention
from busworker.supervisor.manager import Manager


@dataclass(frozen=True, slots=True)
class StartOptions:
    """A service to start, with all its settings resolved.

    Attributes:
        app: where the application is, `module[:attribute]` or `file.py[:attribute]`.
        bus: the application; without `preload` it holds the declarations only, and no handler that works.
        broker: the broker's URL, password included.
        instance: the instance's name.
        grace: seconds that a drain may take.
        retention: how long dead letters and unrouted messages are kept.
        preload: whether workers share the imported application; else each imports it itself.
        log_level: `debug`, `info`, `warning` or `error`.
        log_format: `text` or `json`.
        workers: the number of workers by channel; only these channels run.
        launch: how this process was started; None: unknown, so it can't start itself again.
        spool: the folder in which publishers of this bus keep what the broker can't take; None: there is none.
        http: where metrics and probes are served, as `addresses.parse_address` takes it; None: nowhere.
        manager: the service manager that is told how the service is; None: there is none.
    """

    app: str
    bus: Bus
    broker: str
    instance: str
    grace: float
    retention: Retention
    preload: bool
    log_level: str
    log_format: str
    workers: dict[str, int]
    launch: Launch | None = None
    spool: str | None = None
    http: str | None = None
    manager: Manager | None = None
