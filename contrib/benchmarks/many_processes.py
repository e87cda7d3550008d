"""Many processes on one embedded store: they publish and consume side by side, and may be killed at random.

    python contrib/benchmarks/many_processes.py [--messages 200000] [--publishers 4] [--consumers 4]
        [--kill-every 0.5] [--seed 1] [--folder /var/tmp]

Publishers write down what was confirmed, consumers what they handled; both through kombu's interface, in transactions
of 100. At the end the lists are compared: a message that was confirmed and never handled is lost, one handled more
often than once was held by a killed consumer (or is a fault, if nobody was killed). Exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import apsw
import kombu
from amqp.basic_message import Message

BATCH = 100
QUEUE = "work"
BODY = b"x" * 150


def channel(folder: Path) -> Any:
    """A channel in a transaction on the store of a run."""
    url = f"filesystem://{folder}/bus"
    found: Any = kombu.Connection(url, transport="busworker.transports:FilesystemTransport").channel()
    found.queue_declare(QUEUE, auto_delete=False)
    found.tx_select()
    return found


def publish(folder: Path, name: str, count: int) -> None:
    """Publishes `count` messages; each batch is written down once it is confirmed."""
    out = channel(folder)
    with (folder / f"confirmed-{name}").open("ab", 0) as confirmed:
        for first in range(0, count, BATCH):
            ids = [f"{name}-{number}" for number in range(first, min(first + BATCH, count))]
            for one in ids:
                out.basic_publish(Message(BODY, message_id=one), "", QUEUE)
            out.tx_commit()
            confirmed.write("".join(f"{one}\n" for one in ids).encode())
    (folder / f"finished-{name}").touch()


def consume(folder: Path, name: str) -> None:
    """Handles messages until it is told to end: writes each down, then acknowledges."""
    source, arrived = channel(folder), list[Any]()
    source.basic_qos(0, BATCH, True)
    source.basic_consume(QUEUE, callback=arrived.append)
    with (folder / f"handled-{name}").open("ab", 0) as handled:
        while not (folder / "end").exists():
            try:
                source.connection.drain_events(timeout=0.2)
            except TimeoutError:
                continue
            handled.write("".join(f"{raw.properties['message_id']}\n" for raw in arrived).encode())
            for raw in arrived:
                source.basic_ack(raw.delivery_tag)
            arrived.clear()
            source.tx_commit()
    source.connection.close()


class Crowd:
    """The processes of a run: each publisher and consumer is born again, under a new name, when it was killed."""

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        self.folder, self.given, self.kills, self.lives = folder, given, 0, 0
        self.left = {f"p{number}": given.messages // given.publishers for number in range(given.publishers)}
        self.names = [*self.left, *(f"c{number}" for number in range(given.consumers))]
        self.running = {name: self.start(name) for name in self.names}

    def start(self, name: str) -> tuple[str, subprocess.Popen[bytes]]:
        """A new life of a process."""
        self.lives += 1
        life = f"{name}.{self.lives}"
        role = [life, str(self.left[name])] if name in self.left else [life]
        return life, subprocess.Popen([sys.executable, __file__, "--role", *role, "--folder", str(self.folder)])

    def kill(self, name: str) -> None:
        """Kills a process, if it lives, and starts it again; a publisher goes on with what isn't confirmed yet."""
        life, process = self.running[name]
        if process.poll() is not None:
            return
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.kills += 1
        if name in self.left:
            self.left[name] -= len(lines(self.folder, f"confirmed-{life}"))
        self.running[name] = self.start(name)

    def publishing(self) -> bool:
        """Whether a publisher isn't done; raises if a process failed."""
        for name, (_, process) in self.running.items():
            if process.poll():
                raise SystemExit(f"{name} ended with {process.returncode}")
        return any(self.running[name][1].poll() is None for name in self.left)

    def end(self) -> None:
        """Ends the consumers."""
        (self.folder / "end").touch()
        for _, process in self.running.values():
            process.wait(60)


def lines(folder: Path, pattern: str) -> list[str]:
    """The lines of files; the last of a killed process may be cut short, and then it was not complete."""
    found: list[str] = []
    for path in folder.glob(pattern):
        found += path.read_text().rpartition("\n")[0].splitlines()
    return found


def run(folder: Path, given: argparse.Namespace) -> bool:
    """One run; prints what came of it and says whether all is well."""
    chance, begun = random.Random(given.seed), time.monotonic()
    observer = channel(folder)
    crowd = Crowd(folder, given)
    next_kill = begun + given.kill_every if given.kill_every else float("inf")
    while crowd.publishing() or any(observer.queue_counts(QUEUE)):
        time.sleep(0.05)
        if time.monotonic() > next_kill and crowd.publishing():
            crowd.kill(chance.choice(crowd.names))
            next_kill = time.monotonic() + given.kill_every
    took = time.monotonic() - begun
    crowd.end()
    confirmed, handled = set(lines(folder, "confirmed-*")), Counter(lines(folder, "handled-*"))
    lost = confirmed - handled.keys()
    again = sum(count - 1 for count in handled.values())
    with apsw.Connection(str(folder / "bus" / "bus.db")) as store:
        (sound,) = store.execute("PRAGMA integrity_check").fetchall()[0]
    print(
        f"{given.publishers} publishers, {given.consumers} consumers, {crowd.kills} kills: "
        f"{len(confirmed):,} confirmed, {len(handled):,} handled, {again:,} once more, {len(lost)} lost; "
        f"integrity_check {sound}; {len(handled) / took:,.0f} messages a second"
    )
    return not lost and sound == "ok" and (not again or crowd.kills > 0) and len(confirmed) >= given.messages


def main() -> int:
    """Runs, or plays a role in a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--publishers", type=int, default=4)
    parser.add_argument("--consumers", type=int, default=4)
    parser.add_argument("--kill-every", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--role", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        name, *count = given.role
        publish(given.folder, name, int(count[0])) if count else consume(given.folder, name)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="many-", dir=given.folder))
    print(f"seed {given.seed}", flush=True)
    well = run(folder, given)
    if well:
        shutil.rmtree(folder)
    else:
        print(f"kept {folder}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
