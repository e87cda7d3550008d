"""What a worker says of each message: in its slot of the scoreboard, to its consumer, and in its title."""

from __future__ import annotations

import os
import time

import msgspec
import setproctitle

from busworker import outcome as how
from busworker.errors import ProtocolError
from busworker.ids import made_at
from busworker.ipc import frames
from busworker.ipc.link import Link
from busworker.ipc.scoreboard import Scoreboard
from busworker.ipc.tally import Tally
from busworker.outcome import Error
from busworker.settlement import charged
from busworker.worker.mailbox import Mailbox


class Executing(msgspec.Struct):
    """A message that is executed: `begun` and `deadline` (0: none) are monotonic seconds, `since` Unix time."""

    handout: frames.Handout
    begun: float
    since: float
    deadline: float = 0.0


class Desk:
    """A worker's slot, links and title.

    Args:
        board: the pool's scoreboard.
        tally: where the pool counts.
        slot: the worker's, from 0.
        mailbox: the way to the consumer.
        supervisor: the way to the supervisor.
        title: the process title without what it does.
    """

    def __init__(
        self, board: Scoreboard, tally: Tally, slot: int, mailbox: Mailbox, supervisor: Link, title: str
    ) -> None:
        self._board = board
        self._tally = tally
        self._slot = slot
        self._mailbox = mailbox
        self._supervisor = supervisor
        self._title = title
        self._pid = os.getpid()

    def begin_alone(self, handout: frames.Handout) -> float:
        """A message begins, and nothing is executed beside it; it has no deadline yet. The Unix time of that."""
        self.entitle(f"{handout.topic} {handout.id[:6]}")
        since = time.time()
        self._board.begin(self._slot, handout.number, handout.key, handout.id, since)
        self._tell_begun()
        return since

    def begin(self, handout: frames.Handout) -> Executing:
        """A message begins beside others; it has no deadline yet, and is not shown."""
        one = Executing(handout, time.monotonic(), time.time())
        self._board.open_entry(self._slot, handout.number, handout.key)
        return one

    def show(self, executing: dict[int, Executing]) -> None:
        """Shows of all that is executed what must end next: at its deadline the supervisor kills for that message."""
        if not executing:
            self.entitle("idle")
            return
        first = min(executing.values(), key=lambda one: one.deadline or float("inf"))
        handout = first.handout
        # Without a deadline while the number changes: the pair is never one message's number and another's deadline.
        self.set_deadline(0.0)
        self._board.show(self._slot, handout.number, handout.id, first.since, first.begun)
        self.set_deadline(first.deadline)
        more = f" +{len(executing) - 1}" if len(executing) > 1 else ""
        self.entitle(f"{handout.topic} {handout.id[:6]}{more}")
        self._tell_begun()

    def set_deadline(self, at: float) -> None:
        """Monotonic seconds at which the worker is killed; 0: never."""
        self._board.write_deadline(self._slot, at)

    def finished(
        self, handout: frames.Handout, since: float, seconds: float, outcome: how.Outcome, *, last: bool
    ) -> None:
        """Sends the outcome of what began at `since`; `last`: nothing is executed any more."""
        if os.getpid() != self._pid:
            os._exit(0)  # a child that the handler forked has come back here: it settles nothing
        number = handout.number
        self._report(frames.Finished(number, seconds, outcome))
        # Only now: a finished entry says that the outcome is in the link.
        if last:
            self._board.finish(self._slot, number, time.time())
        else:
            self._board.finish_entry(self._slot, number)
        if charged(outcome):
            self._tally.measure(self._slot, handout.subscription, seconds, waited(handout, since))

    def entitle(self, what: str) -> None:
        """Says in the process title what the worker does."""
        setproctitle.setproctitle(f"{self._title} {what}")

    def _tell_begun(self) -> None:
        if self._board.unwatched(self._slot):
            self._supervisor.send(frames.Begun())

    def _report(self, finished: frames.Finished) -> None:
        try:
            self._mailbox.send(finished)
        except ProtocolError as error:
            failed = how.Raised(Error("PublishFailed", f"the attempt published too much: {error}"))
            self._mailbox.send(frames.Finished(finished.number, finished.seconds, failed))


def waited(handout: frames.Handout, since: float) -> float | None:
    """Seconds from when a message was ready until its handler began, at `since`; None: nobody knows.

    Without a header that says so, its id tells it, or another program's timestamp, in whole seconds. That is not when a
    retry of it is ready.
    """
    if handout.ready_at is not None:
        return max(0.0, since - handout.ready_at / 1000)
    if handout.attempt > 1 or handout.published_at is None:
        return None
    return max(0.0, since - made_at(handout.id, handout.published_at))
