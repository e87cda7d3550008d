"""What every measurement of `amqp_rates.py` is taken with: the clock, and the processor time of both sides.

Rates of a busy machine scatter; the processor time a message takes scatters less, and says where a rate ends.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import psutil


class Figure(NamedTuple):
    """One measurement: messages a second, and microseconds of processor time a message, of us and of the broker."""

    rate: float
    ours: float
    broker: float


class Meter:
    """Measures between `begin` and `end`.

    Args:
        broker: process id of the broker.
    """

    def __init__(self, broker: int) -> None:
        self._broker = psutil.Process(broker)
        self._start = (0.0, 0.0, 0.0)
        self._done = 0

    def begin(self, pid: int | None = None, done: int = 0) -> None:
        """From now on; `pid` is the root of the processes that are measured, None this process alone."""
        self._done, self._start = done, self._now(pid)

    def end(self, pid: int | None, done: int) -> Figure:
        """Until now: `done` messages in all."""
        took = [end - start for start, end in zip(self._start, self._now(pid), strict=True)]
        count = done - self._done
        return Figure(count / took[0], took[1] / count * 1e6, took[2] / count * 1e6)

    def _now(self, pid: int | None) -> tuple[float, float, float]:
        root = psutil.Process(pid)
        measured = [root] if pid is None else [root, *root.children(recursive=True)]
        return time.perf_counter(), sum(map(_processor_time, measured)), _processor_time(self._broker)


def _processor_time(process: psutil.Process) -> float:
    try:
        spent = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(spent.user + spent.system)
