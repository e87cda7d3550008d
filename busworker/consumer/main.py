"""The consumer's loop: one selector over the supervisor's link, the workers' links and the broker.

Each turn reads what has come, settles the attempts that have ended in one go, fetches what the pool can take, and
hands out. Nothing here waits for a worker or for the supervisor, and no user code runs here.
"""

from __future__ import annotations

import logging
import os
import socket
import time

from busworker import outcome as how
from busworker.broker.session import Session, open_session
from busworker.consumer.adopting import EVERY, Adopting
from busworker.consumer.at_once import AtOnce
from busworker.consumer.booking import book, tell_lost
from busworker.consumer.counting import Seen, counts_told
from busworker.consumer.dispatch import Dispatcher, Held, handout
from busworker.consumer.figures import Figures
from busworker.consumer.intake import Intake
from busworker.consumer.retaining import Retaining
from busworker.consumer.settlements import Settlements
from busworker.consumer.settling import Ended, ended_by_death
from busworker.consumer.standing import Standing
from busworker.consumer.watch import Watch
from busworker.consumer.watchdog import Watchdog
from busworker.errors import BrokerUnavailable, BusworkerError, ConfigurationError, ProtocolError, TopologyMismatch
from busworker.ipc import frames
from busworker.ipc.link import Link
from busworker.jobs import ConsumerJob
from busworker.log_fields import event
from busworker.message import Delivery
from busworker.outcome import WorkerInfo

log = logging.getLogger("busworker.consumer")


def main(job: ConsumerJob) -> int:
    """Runs the consumer of a channel until it has drained; 0."""
    return Consumer(job).run()


class Consumer:
    """The process that fetches and settles for one channel.

    Attributes:
        over: it has drained; there is no further turn.
    """

    def __init__(self, job: ConsumerJob) -> None:
        self._job = job
        self._channel = job.channel
        self._host = socket.gethostname()
        self._board = job.board
        self._intake = Intake(job.board.path, job.channel.subscriptions)
        self._supervisor = Link(job.link, descriptors=True)
        self._links: dict[int, Link] = {}
        self._finishing: list[Link] = []
        self._dispatcher = Dispatcher(job.channel.concurrency)
        self._at_once = AtOnce()
        self._settlements = Settlements(job.channel.subscriptions)
        self._session: Session | None = None
        self._queues: dict[str, int] = {}
        self._unsettled = 0
        self._watch = Watch()
        self._watch.add(self._supervisor)
        self._standing = Standing(self._supervisor)
        self._adopting = Adopting()
        self._retaining = Retaining(job.retention)
        self._watchdog = Watchdog()
        self._counts_wanted: list[int] = []
        self._figures = Figures(time.monotonic())
        self._draining = False
        self._paused = job.paused
        self.over = False

    def run(self) -> int:
        """The loop."""
        while not self.over:
            self._watch.wait(self._timeout())
            self.turn()
        if self._session is not None:
            self._session.close()
        return 0

    def turn(self) -> None:
        """Does all that can be done now, and waits for nothing."""
        self._hear_supervisor()
        self._hear_workers()
        self._serve_broker()
        self._tell_counts()
        self._at_once.expire(time.monotonic())
        self._hand_out()
        self._finish_workers()
        sockets = {} if self._session is None else self._session.filenos()
        self._watch.flush((self._supervisor, *self._links.values(), *self._finishing), sockets)

    def _timeout(self) -> float:
        now = time.monotonic()
        if self._session is None or self._standing.failing:
            return max(min(self._standing.try_at, self._at_once.next_due) - now, 0.0)
        if self._settlements.fresh or (self._dispatcher.holds and not self._takes):
            return 0.0  # ended as they arrived: owed, or not ours to serve; or to be given back
        if not (self._has_room() or self._session.pushes):
            return EVERY  # an outcome or a frame wakes us
        keeping = float("inf") if self._draining else min(self._adopting.next_at, self._retaining.next_at)
        due = min(keeping, self._watchdog.next_at, self._dispatcher.crowded_until, self._at_once.next_due)
        return max(min(self._session.next_due(), due - now), 0.0)

    # The supervisor

    def _hear_supervisor(self) -> None:
        for frame in self._supervisor.receive():
            self._obey(frame)
        if self._supervisor.closed:
            log.error("the supervisor is gone: ending at once", extra=event("supervisor_lost"))
            os._exit(1)

    def _obey(self, frame: frames.Frame) -> None:
        match frame:
            case frames.WorkerAdded():
                self._add_worker(frame, self._supervisor.descriptors.popleft())
            case frames.WorkerRetired(slot, incarnation):
                self._dispatcher.retire(slot, incarnation)
            case frames.ProcessDied():
                self._bury(frame)
            case frames.CountsWanted(request):
                self._counts_wanted.append(request)
            case frames.Pause():
                self._paused = True
                self._supervisor.send(frames.Paused())
            case frames.Resume():
                self._resume()
            case frames.Drain():
                self._draining = True
                self._dispatcher.retire_all()
            case _:
                raise ProtocolError(f"the supervisor sent {type(frame).__name__}")

    def _add_worker(self, frame: frames.WorkerAdded, descriptor: int) -> None:
        self._board.ensure(frame.slot + 1)
        link = Link(socket.socket(fileno=descriptor))
        self._links[frame.slot] = link
        self._dispatcher.added(frame.slot, frame.incarnation, frame.pid)
        self._watch.add(link)
        if self._draining:
            self._dispatcher.retire(frame.slot, frame.incarnation)

    def _bury(self, notice: frames.ProcessDied) -> None:
        """A worker is dead. What its link still holds comes first: a complete outcome wins over the death."""
        link = self._links.get(notice.slot)
        worker = self._dispatcher.workers.get(notice.slot)
        if link is None or worker is None or worker.incarnation != notice.incarnation:
            return
        self._hear_worker(notice.slot, link)
        handed = self._dispatcher.removed(notice.slot, notice.incarnation)
        if self._links.pop(notice.slot, None) is None:
            return  # it has left by itself: what it was handed is back already
        self._watch.remove(link)
        link.close()
        ended, waited = ended_by_death(handed, notice, self._board.was_started)
        for one in ended:
            self._end(one)
        self._wait_again(waited)

    def _wait_again(self, helds: list[Held]) -> None:
        """These were handed to a worker that is gone, and aren't charged."""
        for held in helds:
            self._close_entry(held)
        self._intake.forget(held for held in helds if held.lost)
        self._dispatcher.wait_again(held for held in helds if not held.lost)

    # Workers

    def _hear_workers(self) -> None:
        for slot, link in list(self._links.items()):
            self._hear_worker(slot, link)
        for link in self._finishing[:]:
            self._hear_worker(-1, link)
            if link.closed:
                self._finishing.remove(link)

    def _hear_worker(self, slot: int, link: Link) -> None:
        try:
            arrived = link.receive()
        except ProtocolError as error:
            log.error("worker %d sent nonsense, its link is dropped: %s", slot + 1, error)
            link.shut()  # the worker ends once it sees that, and what it executes has crashed
            arrived = []
        for frame in arrived:
            match frame:
                case frames.Finished(number, seconds, outcome):
                    self._outcome(slot, number, seconds, outcome)
                case frames.Leaving(reason):
                    self._leave(slot, reason)
                case frames.PublishNow():
                    self._at_once.ask(link, frame, time.monotonic())
                case _:
                    log.error("worker %d sent %s, which is ignored", slot + 1, type(frame).__name__)
        if link.closed:
            self._watch.remove(link)

    def _outcome(self, slot: int, number: int, seconds: float, outcome: how.Outcome) -> None:
        worker = self._dispatcher.workers.get(slot)
        held = self._dispatcher.finished(slot, worker.incarnation, number, seconds) if worker else None
        if held is None or worker is None:
            log.warning("worker %d reports message number %d, which it doesn't hold: ignored", slot + 1, number)
            return
        self._end(Ended(held, outcome, WorkerInfo(self._host, worker.pid), seconds))

    def _leave(self, slot: int, reason: str) -> None:
        """A worker finishes: its stop hooks may still publish. What it was handed and hasn't begun goes to others."""
        worker = self._dispatcher.workers.get(slot)
        if worker is not None:
            self._wait_again(self._dispatcher.removed(slot, worker.incarnation))
            self._supervisor.send(frames.WorkerDone(slot, worker.incarnation, reason))  # before it can be gone
            self._finishing.append(link := self._links.pop(slot))
            link.send(frames.Finish())

    def _finish_workers(self) -> None:
        """Tells retired workers without work to finish, and ends the drain once nobody is left."""
        for slot, _ in self._dispatcher.idle_retired():
            self._leave(slot, "")
        if self._draining and not (self._links or self._finishing or self._settlements.left or self._dispatcher.holds):
            self._supervisor.send(frames.Drained())
            self.over = True

    @property
    def _takes(self) -> bool:
        """Whether messages are taken from the broker, and handed out."""
        return not (self._draining or self._paused)

    def _resume(self) -> None:
        self._paused = False
        if self._session is not None:
            self._session.resume()
            self._intake.connected(time.monotonic())  # what a lost connection held could not come back meanwhile

    # The broker

    def _serve_broker(self) -> None:
        now = time.monotonic()
        if now < self._standing.try_at:
            return
        try:
            session = self._session or self._connect()
            session.keep_alive()
            if not self._takes:
                session.cease()
                self._give_back(self._dispatcher.take_waiting())
            self._settlements.submit(session, time.time())
            self._at_once.submit(session)
            self._conclude(session, session.concluded())
            if not self._paused:
                self._forget(self._intake.overdue(now))
            if not self._draining:
                self._adopting.adopt(session, list(self._queues), self._intake, now)
                self._retaining.keep(session, self._queues, now, time.time())
            if session.pushes or self._has_room():
                self._fetch(session, now)
            else:
                session.rest()
            self._standing.worked(session)
        except BrokerUnavailable as error:
            self._trouble(error, None)
        except (ConfigurationError, TopologyMismatch) as error:
            self._trouble(error, 78)

    def _connect(self) -> Session:
        session = open_session(self._job.broker, claim_file=str(self._board.path), heartbeats=True)
        try:
            if self._paused:
                session.cease()
            session.declare()
            for index, spec in enumerate(self._channel.subscriptions):
                queue = session.declare_work(spec.topic, self._job.service, self._channel.name)
                self._queues[queue] = index
                if not self._draining:
                    session.consume(queue, self._dispatcher.prefetch)
            self._settlements.declare(session)
        except BusworkerError:
            session.close()
            raise
        self._session = session
        for descriptor in session.filenos():
            self._watch.add(descriptor)
        if session.pushes:
            self._watchdog.heard(time.monotonic())
        self._standing.connected()
        self._intake.connected(time.monotonic())
        return session

    def _trouble(self, error: BusworkerError, exit_code: int | None) -> None:
        self._standing.failed(error, exit_code)
        self._at_once.trouble = str(error)
        session = self._session
        # One that pushes has to be read all the time, which nobody does during the pause before the next try.
        if session is not None and (session.is_over() or session.pushes):
            self._lose_connection(session)

    def _lose_connection(self, session: Session) -> None:
        """What only waited comes again by itself; what is executing or ended is matched with its redelivery."""
        self._conclude(session, session.stored())
        for descriptor in session.filenos():
            self._watch.remove(descriptor)
        session.close()
        self._session = None
        self._unsettled = 0
        self._dispatcher.take_waiting()
        self._at_once.lose()
        executing = (held for worker in self._dispatcher.workers.values() for held in worker.handed.values())
        self._intake.lose([*executing, *self._settlements.lose()])

    def _fetch(self, session: Session, now: float) -> None:
        arrived = session.fetch(self._dispatcher.prefetch if session.pushes else self._dispatcher.window)
        for delivery in arrived:
            self._unsettled += 1
            self._take_in(delivery)
        if not session.pushes:
            return
        # A prefetch may be full of what waits for its confirms.
        if arrived or not self._has_room() or self._settlements.left or session.trouble:
            self._watchdog.heard(now)
        elif now >= self._watchdog.next_at:
            self._look_for_ready(session)
        self._give_back(self._dispatcher.surplus(now))

    def _look_for_ready(self, session: Session) -> None:
        ready = sum(counts.ready for queue in self._queues if (counts := session.counts(queue)))
        if self._watchdog.is_forgotten(ready, time.monotonic()):
            self._standing.forgotten(ready)
            self._lose_connection(session)

    def _has_room(self) -> bool:
        return self._takes and self._dispatcher.has_room(self._unsettled)

    def _take_in(self, delivery: Delivery) -> None:
        admitted = self._intake.admit(delivery, self._queues[delivery.queue])
        if isinstance(admitted, Held):
            self._dispatcher.take_in(admitted)
        elif admitted is not None:
            self._end(admitted)

    def _give_back(self, helds: list[Held]) -> None:
        for held in helds:
            self._settlements.add(Ended(held, how.Stopped(), WorkerInfo()))

    def _tell_counts(self) -> None:
        """Answers the supervisor, also while there is no broker."""
        session = self._session
        for request in self._counts_wanted:
            seen = Seen(self._unsettled, self._dispatcher.oldest, self._figures)
            self._supervisor.send(counts_told(request, session, list(self._queues), seen))
        if self._counts_wanted and session is not None and session.is_over():
            self._lose_connection(session)
        self._counts_wanted.clear()

    # Settling

    def _end(self, ended: Ended) -> None:
        if ended.held.lost:
            ended.held.outcome = ended.outcome
        else:
            self._settlements.add(ended)

    def _forget(self, helds: list[Held]) -> None:
        """Another pool was given these while there was no connection: what became of them here doesn't count."""
        for held in helds:
            tell_lost(held)
            self._close_entry(held)

    def _conclude(self, session: Session, tags: list[int]) -> None:
        """After the commit, or the last confirm: close the entries, count, and tell what failed."""
        if not tags:
            return
        self._at_once.concluded(tag for tag in tags if tag < 0)
        settled = self._settlements.concluded([tag for tag in tags if tag >= 0])
        self._unsettled -= len(settled)
        for one in settled:
            self._close_entry(one.ended.held)
        book(settled, self._job, self._figures)
        keys = [one.ended.held.key for one in settled if not one.step.returned]
        self._intake.settled(keys, remember=session.pushes)

    def _close_entry(self, held: Held) -> None:
        if held.number:
            self._board.close_entry(held.slot, held.number)
            self._dispatcher.entry_closed(held)

    # Handing out

    def _hand_out(self) -> None:
        if not self._takes:
            return
        for held in self._dispatcher.assign():
            self._links[held.slot].post(handout(held))
        for link in self._links.values():
            link.flush()
