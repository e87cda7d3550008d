"""A supervisor with a scripted consumer and worker, run as a program: what it does without any broker.

The consumer hands each idle worker a message, whose body names what the worker is to do with it (`SCRIPT`).
"""

import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

import setproctitle

from busworker import logs
from busworker.declaration import ChannelSpec, ServiceSpec, SubscriptionSpec
from busworker.ipc import frames
from busworker.ipc.link import Link
from busworker.ipc.tally import Tally
from busworker.jobs import ConsumerJob, WorkerJob
from busworker.outcome import Returned
from busworker.retention import Retention
from busworker.supervisor.boards import open_board
from busworker.supervisor.main import Supervisor
from busworker.supervisor.orders import Orders

SCRIPT = os.environ.get("SCRIPT", "work")
LIMIT = float(os.environ.get("LIMIT", "60"))


def say(text: str) -> None:
    os.write(2, f"{text}\n".encode())


def descriptors() -> int:
    """How many are open, besides the standard ones and that of the listing itself."""
    return len(list(Path("/proc/self/fd").iterdir())) - 4


class Consumer:
    def __init__(self, job: ConsumerJob) -> None:
        self.job = job
        self.supervisor = Link(job.link, descriptors=True)
        self.workers: dict[int, Link] = {}
        self.holds: dict[int, int] = {}
        self.retiring: dict[int, int] = {}
        self.finishing: list[Link] = []
        self.numbers: dict[int, int] = {}
        self.draining = False

    def run(self) -> int:
        self.supervisor.send(frames.Ready())
        say(f"the consumer has {descriptors()} descriptors")
        while not (self.draining and not self.workers and not self.finishing):
            select.select([self.supervisor, *self.workers.values(), *self.finishing], [], [], 0.02)
            self.hear_supervisor()
            for slot, link in list(self.workers.items()):
                self.serve(slot, link)
            for link in self.finishing:
                link.receive()
            self.finishing = [link for link in self.finishing if not link.closed]
        self.supervisor.send(frames.Drained())
        return 0

    def hear_supervisor(self) -> None:
        for frame in self.supervisor.receive():
            match frame:
                case frames.WorkerAdded(slot, incarnation):
                    self.job.board.ensure(slot + 1)
                    self.workers[slot] = Link(socket.socket(fileno=self.supervisor.descriptors.popleft()))
                    if self.draining:
                        self.retiring[slot] = incarnation
                case frames.WorkerRetired(slot, incarnation):
                    self.retiring[slot] = incarnation
                case frames.ProcessDied(slot, incarnation, _, name, code, cause, number):
                    say(f"told: {slot}/{incarnation} {name or code} {cause} {number}")
                    if (held := self.holds.pop(slot, None)) is not None:
                        self.job.board.close_entry(slot, held)
                    self.workers.pop(slot, None)
                case frames.CountsWanted(request):
                    self.supervisor.send(frames.CountsTold(request, 1, 2, 3, 4))
                case frames.Drain():
                    self.draining = True
                case _:
                    raise AssertionError(frame)

    def serve(self, slot: int, link: Link) -> None:
        for frame in link.receive():
            assert isinstance(frame, frames.Finished)
            self.job.board.close_entry(slot, self.holds.pop(slot))
            self.job.board.count(1, 0)
        if link.closed or slot in self.holds:
            return
        if self.draining or slot in self.retiring:
            link.send(frames.Finish())
            self.supervisor.send(frames.WorkerDone(slot, self.retiring.pop(slot, 1)))
            self.finishing.append(self.workers.pop(slot))
        else:
            self.numbers[slot] = self.holds[slot] = number = self.numbers.get(slot, 0) + 1
            key = f"{slot}-{number}".encode().ljust(16)
            link.send(frames.Handout(number, 0, key, f"m{slot}-{number}", "t", 1, None, None, {}, SCRIPT.encode()))


def consumer(job: ConsumerJob) -> int:
    return Consumer(job).run()


def worker(job: WorkerJob) -> int:
    if SCRIPT == "fail":
        return 3
    link, supervisor = Link(job.link, blocking=True), Link(job.supervisor, blocking=True)
    supervisor.send(frames.Started())
    say(f"a worker has {descriptors()} descriptors")
    while not link.closed:
        for frame in link.receive():
            if isinstance(frame, frames.Finish):
                return 0
            assert isinstance(frame, frames.Handout)
            execute(job, frame)
            link.send(frames.Finished(frame.number, 0.05, Returned()))
            job.board.finish(job.slot, frame.number, time.time())
    return 1


def execute(job: WorkerJob, handout: frames.Handout) -> None:
    job.board.begin(job.slot, handout.number, handout.key, handout.id, time.time())
    job.board.write_deadline(job.slot, time.monotonic() + LIMIT)
    say(f"{handout.id} begins")
    match handout.body.decode():
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(600)
        case "fork":
            forked = os.fork()
            if forked:
                say(f"forked {forked} .")
            time.sleep(600)
        case _:
            time.sleep(0.05)


def main(folder: Path, workers: int) -> int:
    logs.setup("debug", "text", "supervisor email")
    # Else the undertaker of another test takes our children for orphans.
    setproctitle.setproctitle("busworker: supervisor email")
    subscription = SubscriptionSpec("t", False, 3, (1.0,), 10.0, 1.0)
    channel = ChannelSpec("welcome", workers, 1, None, None, (subscription,))
    orders = Orders(
        service=ServiceSpec("email", (channel,)),
        instance="default",
        broker="memory://scripted",
        bus=None,
        app="none",
        retention=Retention(),
        grace=float(os.environ.get("GRACE", "20")),
        boards={"welcome": open_board(folder / "welcome.board", workers)},
        tallies={"welcome": Tally(1)},
        socket=folder / "socket",
        consumer_main="tests.process.supervised:consumer",
        worker_main="tests.process.supervised:worker",
    )
    return Supervisor(orders).run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
