"""Whether a chaos kept the promises: nothing lost, nothing invented, every execution and every charge accounted for.

An execution may be repeated only if its attempt failed, or if a process that held the message was killed while it was
executing or its outcome unsettled. What RabbitMQ may have twice is judged by less: see `copies.py`. Pure; each rule
returns what it complains of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from tests.support.chaos.copies import Copies, back
from tests.support.chaos.history import Execution, Fault, Key, Letter, Story

SETTLED_WITHIN = 5.0
"""Seconds in which an outcome is settled on a busy machine, unless the disk is full or somebody is stopped."""
SLACK = 0.05
"""Seconds by which clocks read in different places may disagree."""


def check(story: Story) -> list[str]:
    """What is wrong; empty: nothing."""
    return list(_Checker(story).complaints())


class _Checker:
    def __init__(self, story: Story) -> None:
        self._story = story
        self._limits = story.limits
        self._messages = story.by_message()
        self._letters = {letter.key: letter for letter in story.letters}
        self._last_begun = {one.pid: one.begun for one in sorted(story.executions, key=lambda one: one.begun)}
        self._cuts = [fault for fault in story.faults if self._may_cut(fault)]
        self._copies = Copies(story)
        self._hidden = self._twice = 0

    def complaints(self) -> Iterator[str]:
        yield from self._unexpected()
        yield from self._letters_twice()
        for key in sorted(self._messages.keys() | self._letters.keys() | self._story.confirmed):
            yield from self._message(key, self._messages.get(key, []), self._letters.get(key))
        yield from self._too_many()

    # Of all

    def _unexpected(self) -> Iterator[str]:
        for key in sorted((self._messages.keys() | self._letters.keys()) - self._story.tried):
            yield f"{_named(key)} was never published"

    def _letters_twice(self) -> Iterator[str]:
        seen: set[Key] = set()
        for letter in self._story.letters:
            if letter.key in seen and not self._copies.why(letter.key):
                yield f"{_named(letter.key)} is a dead letter twice"
            seen.add(letter.key)

    def _too_many(self) -> Iterator[str]:
        most = sum(self._cut_by(fault) for fault in self._cuts)
        if self._hidden > most:
            yield f"{self._hidden} attempts were charged without an execution, but only {most} processes were cut"
        if self._twice > self._copies.most():
            yield f"{self._twice} messages were there twice, but the faults met at most {self._copies.most()}"

    # Of one message

    def _message(self, key: Key, executions: list[Execution], letter: Letter | None) -> Iterator[str]:
        for execution in executions:
            yield from self._execution(execution)
        if reasons := self._copies.why(key):
            yield from self._perhaps_twice(key, executions, letter, reasons)
            return
        for execution in executions:
            if execution.ended is None and self._last_begun[execution.pid] > execution.begun:
                yield f"{_told(execution)} never ended, but its worker went on"
        for earlier, later in pairwise(executions):
            yield from self._repeat(earlier, later)
        if executions:
            yield from self._gap(key, 1, executions[0].attempt, float("-inf"), executions[0].begun)
        yield from self._end(key, executions, letter)

    def _perhaps_twice(
        self, key: Key, executions: list[Execution], letter: Letter | None, reasons: Counter[str]
    ) -> Iterator[str]:
        """Less is known of it; but it isn't lost, and there are no more of it than reasons for that."""
        most = 1 + reasons.total()
        for attempt, times in Counter(one.attempt for one in executions).items():
            self._twice += times > 1 and "published twice" not in reasons
            if times > most:
                yield f"{_named(key)}: attempt {attempt} was executed {times} times, and {dict(reasons)}"
        if letter is not None and letter.attempts != self._limits.max_attempts:
            yield f"{_named(key)} is dead after {letter.attempts} attempts"
        kept = letter is not None or key in self._story.queued
        if key in self._story.confirmed and not kept and all(one.outcome != "returned" for one in executions):
            yield f"{_named(key)} is lost; its last execution: {_told(executions[-1]) if executions else 'none'}"

    def _execution(self, one: Execution) -> Iterator[str]:
        if one.attempt > self._limits.max_attempts:
            yield f"{_told(one)} is beyond max_attempts"
        if one.outcome == "TimeLimitExceeded" and one.ended is not None:
            ran = one.ended - one.begun - self._stopped(one.begun, one.ended)
            if ran < self._limits.time_limit - SLACK:
                yield f"{_told(one)} met the time limit after {ran:.2f} s"
        elif one.outcome not in (None, _meant(one.deed)):
            yield f"{_told(one)} ended as {one.outcome}"

    def _repeat(self, earlier: Execution, later: Execution) -> Iterator[str]:
        if later.attempt <= earlier.attempt:
            yield f"{_told(later)} repeats {_told(earlier)}, which was not charged"
        else:
            yield from self._gap(earlier.key, earlier.attempt + 1, later.attempt, earlier.begun, later.begun)
        if not self._failed(earlier, later.begun):
            yield f"{_told(later)} repeats {_told(earlier)} for no reason"
        if earlier.ended is not None and earlier.ended > later.begun:
            yield f"{_told(later)} began while {_told(earlier)} was executing"

    def _gap(self, key: Key, expected: int, attempt: int, since: float, until: float) -> Iterator[str]:
        """Attempts without an execution: killed after they were handed out, and before the handler wrote its line."""
        for missing in range(expected, attempt):
            self._hidden += 1
            cuts = (fault for fault in self._cuts if fault.overlaps(since, until))
            if not any(self._holds(fault, key) for fault in cuts):
                yield f"{_named(key)}: attempt {missing} was charged, and never executed"

    def _end(self, key: Key, executions: list[Execution], letter: Letter | None) -> Iterator[str]:
        last = executions[-1] if executions else None
        if letter is not None:
            yield from self._dead(key, last, letter)
        elif key in self._story.queued:
            if last is not None and not self._failed(last, float("inf")):
                yield f"{_told(last)} was settled, but is still queued"
        elif key in self._story.confirmed and (last is None or last.outcome != "returned"):
            yield f"{_named(key)} is lost; its last execution: {_told(last) if last else 'none'}"

    def _dead(self, key: Key, last: Execution | None, letter: Letter) -> Iterator[str]:
        if key in self._story.queued:
            yield f"{_named(key)} is a dead letter and still queued"
        if letter.attempts != self._limits.max_attempts:
            yield f"{_named(key)} is dead after {letter.attempts} attempts"
        if last is None:
            yield from self._gap(key, 1, letter.attempts + 1, float("-inf"), float("inf"))
            return
        yield from self._gap(key, last.attempt + 1, letter.attempts + 1, last.begun, float("inf"))
        if not self._failed(last, float("inf")):
            yield f"{_told(last)} is dead for no reason"
        if last.attempt == letter.attempts and letter.reason not in _reasons(last):
            yield f"{_told(last)} is dead for the reason {letter.reason}"

    # Why an execution counts as failed

    def _failed(self, one: Execution, until: float) -> bool:
        """Whether the attempt failed, or a process that held the message was killed before it was settled."""
        if one.outcome not in (None, "returned"):
            return True
        if one.outcome is None and one.deed in ("crash", "lethal"):
            return True
        if one.outcome is None and one.deed == "stubborn" and self._overdue(one, until):
            return True
        if self._was_stopped(one):
            return True
        settled = until if one.ended is None else min(until, self._settled_by(one.ended))
        return any(self._holds(fault, one.key, one.pid) for fault in self._kills(one.begun, settled))

    def _overdue(self, one: Execution, until: float) -> bool:
        ran = until - one.begun - self._stopped(one.begun, until)
        return ran >= self._limits.time_limit + self._limits.kill_after - SLACK

    def _was_stopped(self, one: Execution) -> bool:
        """Whether its worker alone was stopped meanwhile for so long that it met a limit."""
        ended = one.ended or float("inf")
        return any(
            fault.pid == one.pid
            and fault.overlaps(one.begun, ended + SLACK)
            and _lasted(fault, self._limits.time_limit)
            for fault in self._story.faults
            if fault.kind == "stop" and fault.target == "worker"
        )

    def _settled_by(self, ended: float) -> float:
        """Until when an outcome may be unsettled; that time stands still while somebody is stopped, the disk full or
        the broker away."""
        until = ended + SETTLED_WITHIN
        for fault in sorted(self._story.faults, key=lambda one: one.since):
            if (fault.kind in ("stop", "full") or fault.of_broker) and fault.overlaps(ended, until):
                until = max(until, back(fault) + SETTLED_WITHIN)
        return until

    # Faults

    def _kills(self, since: float, until: float) -> Iterator[Fault]:
        return (fault for fault in self._story.faults if _kills(fault) and fault.overlaps(since, until))

    def _may_cut(self, fault: Fault) -> bool:
        """Whether it ends executions: a worker stopped for longer than a limit is killed."""
        stopped = fault.kind == "stop" and fault.target == "worker" and _lasted(fault, self._limits.time_limit)
        return _kills(fault) or stopped

    def _holds(self, fault: Fault, key: Key, pid: int | None = None) -> bool:
        """Whether a killed process held that message; `pid` is the worker's, if it is known."""
        match fault.target:
            case "worker":
                return fault.channel == key.channel and pid in (None, fault.pid)
            case "consumer":
                return fault.channel == key.channel
            case _:
                return True

    def _cut_by(self, fault: Fault) -> int:
        workers = self._limits.workers
        match fault.target:
            case "worker":
                return 1
            case "consumer":
                return workers[fault.channel]
            case _:
                return sum(workers.values())

    def _stopped(self, since: float, until: float) -> float:
        """Seconds of that time in which the whole tree was stopped for certain."""
        stops = (one for one in self._story.faults if one.kind == "stop" and one.target == "tree")
        return sum(max(0.0, min(one.until, until) - max(one.since, since)) for one in stops)


def _kills(fault: Fault) -> bool:
    """Whether it killed one of our processes."""
    return fault.kind == "kill" and not fault.of_broker


def _lasted(fault: Fault, limit: float) -> bool:
    return fault.until - fault.since >= limit - SLACK


def _meant(deed: str) -> str | None:
    match deed:
        case "work" | "slow":
            return "returned"
        case "raise" | "poison":
            return "ValueError"
        case _:
            return None


def _reasons(last: Execution) -> tuple[str, ...]:
    match last.outcome:
        case None | "returned":  # cut, or its outcome was
            return ("crash", "time_limit")
        case "TimeLimitExceeded":
            return ("time_limit", "crash")
        case _:
            return ("exception", "crash")


def _named(key: Key) -> str:
    return f"{key.channel}/{key.name}"


def _told(one: Execution) -> str:
    ended = "cut" if one.ended is None else f"to {one.ended:.3f} {one.outcome}"
    return f"[{_named(one.key)} attempt {one.attempt} {one.deed}, pid {one.pid}, {one.begun:.3f} {ended}]"
