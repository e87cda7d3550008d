"""Time in which all were stopped doesn't count, and the soft limit comes soon after it, before the hard one."""

import pytest

from busworker.worker import limit
from busworker.worker.limit import ASKING, AWAY, WAKING, Look, Remaining


class Clock:
    """What the worker's clock and the supervisor say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.turned, self.away = 100.0, 100.0, 0.0
        monkeypatch.setattr(limit.time, "monotonic", lambda: self.now)

    def look(self) -> Look:
        return Look(self.turned, self.away)


def test_a_limit_counts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    remaining = Remaining(clock.look, 1.5)
    clock.now = clock.turned = 101.0
    assert remaining.seconds() == 0.5


def test_who_wakes_before_the_supervisor_asks_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    remaining = Remaining(clock.look, 1.5)
    clock.now = 104.5  # everything was stopped for three seconds, just before the limit
    assert remaining.seconds() == ASKING
    clock.now += ASKING
    clock.turned, clock.away = clock.now, 3.0
    assert remaining.seconds() == pytest.approx(-ASKING)


def test_a_supervisor_that_alone_is_stopped_extends_no_limit_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    remaining = Remaining(clock.look, 1.5)
    clock.now += AWAY + 0.5
    began = clock.now
    while (left := remaining.seconds()) > 0:
        clock.now += left
    assert clock.now - began <= WAKING + ASKING
