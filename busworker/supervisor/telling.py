"""What the log says of a pool's processes: the texts, how serious each is, and its event (docs/reference/logs.md)."""

from __future__ import annotations

import logging
from functools import partial

from busworker import fault_log
from busworker.ipc.frames import Cause
from busworker.log_fields import event
from busworker.supervisor import autopsy
from busworker.supervisor.child import Death
from busworker.supervisor.state import Worker
from busworker.supervisor.status import State

log = fault_log.logger("busworker.supervisor")


class StateTelling:
    """Tells when a service runs and when it fails, but nothing of the instant until a worker is replaced."""

    def __init__(self) -> None:
        self._told: State = "starting"

    def tell(self, state: State) -> None:
        """What its state is now."""
        if state != self._told and state in ("running", "paused", "failing"):
            self._told = state
            log.info("the service is %s", state, extra=event("service_state", reason=state))


class Telling:
    """Tells of one pool; slots are counted from 0 here, and shown from 1.

    Args:
        name: the pool's, `SERVICE.CHANNEL`.
        channel: the channel's.
    """

    def __init__(self, name: str, channel: str) -> None:
        self._name = name
        self._event = partial(event, channel=channel)

    # The consumer

    def consumer_not_started(self, error: OSError) -> None:
        told = self._event("consumer_not_started", fault=str(error))
        log.error("consumer %s can't be started: %s", self._name, error, extra=told)

    def consumer_started(self, pid: int) -> None:
        log.info("consumer %s started, pid %d", self._name, pid, extra=self._event("consumer_started"))

    def consumer_ready(self) -> None:
        log.info("consumer %s ready", self._name, extra=self._event("consumer_ready"))

    def stuck(self, error: str) -> None:
        """What its consumer needs is not to be had by trying again."""
        log.error("%s can't go on: %s", self._name, error, extra=self._event("channel_stuck", fault=error))

    def consumer_died(self, pid: int, ended: Death) -> None:
        told = self._event("consumer_died", reason=str(ended), fault=str(ended))
        log.warning("consumer %s died, pid %d: %s", self._name, pid, ended, extra=told)

    def consumer_drained(self) -> None:
        log.info("consumer %s drained", self._name, extra=self._event("consumer_drained"))

    # A worker

    def worker_not_started(self, slot: int, error: OSError) -> None:
        told = self._event("worker_not_started", slot=slot + 1, fault=str(error))
        log.error("worker %s/%d can't be started: %s", self._name, slot + 1, error, extra=told)

    def worker_started(self, slot: int, pid: int) -> None:
        told = self._event("worker_started", slot=slot + 1)
        log.debug("worker %s/%d started, pid %d", self._name, slot + 1, pid, extra=told)

    def worker_ready(self, slot: int, pid: int) -> None:
        told = self._event("worker_ready", slot=slot + 1)
        log.info("worker %s/%d ready, pid %d", self._name, slot + 1, pid, extra=told)

    def worker_retires(self, slot: int) -> None:
        log.info("worker %s/%d retires", self._name, slot + 1, extra=self._event("worker_retired", slot=slot + 1))

    def worker_replaced(self, slot: int, why: str) -> None:
        told = self._event("worker_replaced", slot=slot + 1, reason=why)
        log.info("worker %s/%d is replaced: %s", self._name, slot + 1, why, extra=told)

    def worker_ended(self, worker: Worker, ended: Death, message_id: str, delay: float, *, stopping: bool) -> None:
        """It was reaped.

        Args:
            worker: what it was.
            ended: how.
            message_id: what it executed; "": nothing.
            delay: seconds until its replacement starts.
            stopping: whether the service stops.
        """
        expected = autopsy.expected(worker, ended, stopping=stopping)
        told = self._event(
            "worker_ended" if expected else "worker_died",
            slot=worker.slot + 1, message_id=message_id or None, reason=str(ended), fault=str(ended),
        )  # fmt: skip
        text = autopsy.last_words(worker, ended, message_id, delay)
        log.log(
            logging.INFO if expected else logging.WARNING,
            "worker %s/%d %s",
            self._name,
            worker.slot + 1,
            text,
            extra=told,
        )

    def stacks(self, slot: int, text: str) -> None:
        """What a worker wrote at its end, which no dead letter will carry."""
        told = self._event("stack", slot=slot + 1)
        log.warning("the stacks of worker %s/%d at its end:\n%s", self._name, slot + 1, text, extra=told)

    # Either

    def killed(self, slot: int | None, pid: int, cause: Cause, details: str) -> None:
        """We have killed a worker, or with the slot None the consumer."""
        level = logging.WARNING if cause in ("time_limit", "memory_limit") else logging.INFO
        if slot is None:
            who, told = f"consumer {self._name}", self._event("consumer_killed", reason=cause, fault=cause)
        else:
            who = f"worker {self._name}/{slot + 1}"
            told = self._event("worker_killed", slot=slot + 1, reason=cause, fault=cause)
        log.log(level, "%s killed, pid %d: %s", who, pid, details or cause, extra=told)

    def nonsense(self, error: Exception) -> None:
        """One of its processes broke the protocol."""
        told = self._event("nonsense", fault=str(error))
        log.error("a process of %s sent nonsense, its link is dropped: %s", self._name, error, extra=told)

    def roll_given_up(self, slot: int, why: str) -> None:
        """A rolling restart has failed by the new worker of that slot."""
        log.error("the rolling restart is given up: %s", why, extra=self._event("restart_failed", slot=slot + 1))
