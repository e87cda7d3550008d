"""A real consumer in a process of its own that takes one turn at a time, and dies or loses its broker when told to.

It tells what it has committed, `{"settled": [[body, attempt, verb], …]}`, that its connection is `{"lost": …}`, and
`{"turned": …}` after each turn.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import wraps
from typing import Literal, NoReturn, TypeAlias

from busworker.broker.amqp import AmqpSession
from busworker.broker.embedded import EmbeddedSession
from busworker.broker.session import Settled
from busworker.broker.topology import UNROUTED
from busworker.brokers import parse
from busworker.consumer import intake, main, standing
from busworker.errors import BrokerUnavailable
from busworker.jobs import ConsumerJob
from busworker.message import ATTEMPT, Delivery

Fault: TypeAlias = Literal["", "lost at fetch", "lost at settle", "refused at settle"]
PATIENCE = 30.0
"""Seconds for a turn, which takes milliseconds."""
ARRIVAL = 0.01
"""Seconds that a turn waits for what RabbitMQ may be about to deliver."""


@dataclass(frozen=True)
class Turn:
    """A turn to take: `die_at` (0: not) counts the steps until the process kills itself; one `fault` of the broker."""

    die_at: int = 0
    fault: Fault = ""


class Fate:
    """What is to happen in the consumer's process."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._fault: Fault = ""
        self._steps = 0
        self.lost = False

    def take(self, turn: Turn) -> None:
        self._steps = turn.die_at or self._steps
        self._fault = turn.fault or self._fault

    def step(self) -> None:
        """A point at which the process may be killed."""
        self._steps -= 1
        if not self._steps:
            os.kill(os.getpid(), signal.SIGKILL)

    def strike(self, place: str, *, always_lost: bool = False) -> None:
        """A point at which the broker may fail."""
        if self._fault.endswith(place):
            self.lost, self._fault = always_lost or self._fault.startswith("lost"), ""
            raise BrokerUnavailable(f"the model says so, at {place}")

    def tell(self, what: str, value: object) -> None:
        self._control.sendall(json.dumps({what: value}).encode() + b"\n")


class MortalSession(EmbeddedSession):
    """A session at whose calls the fate is asked."""

    fate: Fate

    def __init__(self, url: str, *, claim_file: str | None = None, heartbeats: bool) -> None:
        assert heartbeats
        self._seen: dict[int, tuple[str, object]] = {}
        super().__init__(parse(url)[0], claim_file=claim_file)
        self.fate.step()

    def fetch(self, window: int) -> list[Delivery]:
        self.fate.step()
        self.fate.strike("fetch")
        arrived = super().fetch(window)
        for one in arrived:
            self._seen[one.tag] = one.body.decode(), one.headers.get(ATTEMPT, 1)
        self.fate.step()
        return arrived

    def settle(self, items: Sequence[Settled]) -> None:
        self.fate.step()
        self.fate.strike("settle")
        super().settle(items)
        self.fate.tell("settled", [(*self._seen.pop(item.tag), item.verb) for item in items])
        self.fate.step()

    def is_over(self) -> bool:
        over, self.fate.lost = self.fate.lost, False
        if over:
            self.fate.tell("lost", over)
        return over or super().is_over()


class MortalAmqpSession(AmqpSession):
    """The same with RabbitMQ. A settlement is carried to its end at once: what lies between the confirm of a copy and
    the acknowledgement is left to the chaos, since a message may be there twice then, which the table doesn't know.
    """

    fate: Fate

    def __init__(self, url: str, *, claim_file: str | None = None, heartbeats: bool) -> None:
        self._seen: dict[int, tuple[str, object]] = {}
        self._settling = False
        super().__init__(parse(url)[0], heartbeats=heartbeats)
        self.fate.step()

    def fetch(self, window: int) -> list[Delivery]:
        self.fate.step()
        self.fate.strike("fetch", always_lost=True)
        select.select(self.filenos(), [], [], ARRIVAL)
        arrived = super().fetch(window)
        for one in arrived:
            self._seen[one.tag] = one.body.decode(), one.headers.get(ATTEMPT, 1)
        self.fate.step()
        return arrived

    def submit(self, items: Sequence[Settled]) -> None:
        if self._settling:
            super().submit(items)
            return
        self.fate.step()
        self.fate.strike("settle", always_lost=True)  # on AMQP a refusal is no error
        self._settling = True
        self.settle(items)
        self._settling = False
        for consumer in self._consumers.values():
            # Answered after the acknowledgements are done, which a killed client may lose else: nobody confirms them.
            consumer._channel.queue_declare(UNROUTED, passive=True)
        self.fate.tell("settled", [(*self._seen.pop(item.tag), item.verb) for item in items])
        self._concluded += [item.tag for item in items]
        self.fate.step()

    def is_over(self) -> bool:
        over, self.fate.lost = self.fate.lost, False
        if over:
            self.fate.tell("lost", over)
        return over or super().is_over()


class Consumer:
    """The parent's view of it.

    Attributes:
        lost: its connection was lost at some time.
    """

    def __init__(self, job: ConsumerJob, supervisors_end: socket.socket) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(PATIENCE)
        self._pid = os.fork()
        if not self._pid:
            self._control.close()
            supervisors_end.close()
            _live(job, theirs)
        theirs.close()
        job.link.close()
        self._answers = self._control.makefile("rb")
        self._code: int | None = None
        self.lost = False

    def turn(
        self, turn: Turn, settled: Callable[[list[tuple[str, int, str]]], None]
    ) -> Literal["turned", "over", "dead"]:
        """Has it take a turn; `settled` is called with what it commits."""
        try:
            self._control.sendall(json.dumps(asdict(turn)).encode() + b"\n")
        except BrokenPipeError:
            return "dead"
        for line in self._answers:
            match json.loads(line):
                case {"settled": items}:
                    settled(items)
                case {"lost": _}:
                    self.lost = True
                case {"turned": over}:
                    return "over" if over else "turned"
                case {"failed": text}:
                    raise AssertionError(f"the consumer failed:\n{text}")
        return "dead"

    def kill(self) -> None:
        """Kill -9; not after `reap`."""
        os.kill(self._pid, signal.SIGKILL)

    def reap(self) -> int:
        """Waits for its end; how it ended, as `Popen.returncode` has it. A second time the same."""
        if self._code is None:
            _, status = os.waitpid(self._pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
            self._answers.close()
            self._control.close()
        return self._code

    def close(self) -> None:
        """Kills it if it lives."""
        if self._code is None:
            self.kill()
            self.reap()


def _live(job: ConsumerJob, control: socket.socket) -> NoReturn:
    fate = Fate(control)
    try:
        _arrange(fate, job)
        consumer = main.Consumer(job)
        for line in control.makefile("rb"):
            fate.take(Turn(**json.loads(line)))
            consumer.turn()
            if consumer.over:
                consumer.run()  # nothing but its end
            fate.tell("turned", consumer.over)
            if consumer.over:
                os._exit(0)
    except BaseException:  # noqa: BLE001  whatever it is, the parent tells it
        fate.tell("failed", traceback.format_exc())
    os._exit(3)


def _arrange(fate: Fate, job: ConsumerJob) -> None:
    """Before each of these calls the process may be killed, too. A lost broker is tried again in the next turn."""
    session = MortalSession if parse(job.broker)[0].embedded else MortalAmqpSession
    session.fate = fate
    main.open_session, standing.BACKOFF = session, (0.0,)  # type: ignore[assignment]
    for owner, name in ((job.board, "close_entry"), (job.board, "count"), (intake.Owed, "charged")):
        setattr(owner, name, _mortal(fate, getattr(owner, name)))


def _mortal(fate: Fate, call: Callable[..., object]) -> Callable[..., object]:
    @wraps(call)
    def stepping(*args: object) -> object:
        fate.step()
        return call(*args)

    return stepping
