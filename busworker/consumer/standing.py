"""How a consumer stands with its broker: whether it may try again, and what the supervisor and the log are told."""

from __future__ import annotations

import random
import time

from busworker import fault_log
from busworker.broker.session import Session
from busworker.errors import BusworkerError
from busworker.ipc import frames
from busworker.ipc.link import Link
from busworker.log_fields import event

log = fault_log.logger("busworker.consumer")

BACKOFF = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds between two tries; each is shortened by chance, or all consumers would come back at once."""


class Standing:
    """Tells changes, once each.

    Args:
        supervisor: who is told.

    Attributes:
        try_at: monotonic seconds before which the broker isn't to be asked again.
        failing: whether the last try failed.
    """

    def __init__(self, supervisor: Link) -> None:
        self._supervisor = supervisor
        self._failures = 0
        self._told: type[BusworkerError] | None = None
        self._alarm: str | None = None
        self.try_at = 0.0

    @property
    def failing(self) -> bool:
        return self._failures > 0

    def connected(self) -> None:
        """A session is there; after failures `worked` tells it, once it really works."""
        if not self._failures:
            self._supervisor.send(frames.Ready())

    def worked(self, session: Session) -> None:
        """A turn went without an error."""
        fault_log.tell()
        if self._failures:
            log.info("the broker works again", extra=event("broker_restored"))
            self._failures, self._told = 0, None
            self._supervisor.send(frames.Ready())
        if session.trouble != self._alarm:
            self._alarm = session.trouble
            self._tell_alarm()

    def failed(self, error: BusworkerError, exit_code: int | None) -> None:
        """A try has failed; `exit_code` is that of a service for which trying again is no use.

        Each kind is told once: one that ends the service may come after one that passes.
        """
        if self._told is not type(error):
            self._told = type(error)
            if exit_code is None:
                log.warning("%s; trying again", error, extra=event("broker_lost", fault=str(error)))
            self._supervisor.send(frames.Troubled(str(error), exit_code))
        pause = BACKOFF[min(self._failures, len(BACKOFF) - 1)]
        self.try_at = time.monotonic() + pause * random.uniform(0.5, 1.0)
        self._failures += 1

    def forgotten(self, ready: int) -> None:
        """The broker delivers nothing, though so many messages are ready: a new connection is made."""
        told = event("connection_renewed")
        log.warning("%d messages are ready, and none is delivered: connecting anew", ready, extra=told)

    def _tell_alarm(self) -> None:
        if self._alarm is None:
            log.info("the broker takes all again", extra=event("broker_unblocked"))
            self._supervisor.send(frames.Ready())
        else:
            told = event("broker_blocked", fault=self._alarm)
            log.warning("%s; retries and dead letters wait", self._alarm, extra=told)
            self._supervisor.send(frames.Troubled(self._alarm, None))
