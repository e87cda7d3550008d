"""What stands in the store's way while services work: a foreign lock, a full disk, somebody who lists 100,000 messages.

Nothing that was confirmed is lost or done twice, no process is restarted, and all goes on by itself. The sizes are
small; `LOCK_SECONDS=30 LISTED=100000` makes them those of the documentation.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kombu
from amqp.basic_message import Message

from tests.support import Command, Home, Service, Stage, wait_until
from tests.support.home import MARKER
from tests.support.mounting import run_where_it_may_mount

LOCK_SECONDS = float(os.environ.get("LOCK_SECONDS", "6"))
"""Longer than anybody of us waits for a lock."""
LISTED = int(os.environ.get("LISTED", "3000"))
SERVICES = ("audit", "mail", "points")
WAL_BOUND = 16_000_000

APP = """
from busworker import Bus, Topic
from recording import record

bus = Bus("{0}")

@bus.channel("pool", processes=2).subscribe(Topic("order.placed", int))
def note(event):
    record("{0}", event)
"""
PUBLISHER = """
import os, sys
from busworker import Bus, PublishFailed, Topic

bus = Bus("till", publish_deadline=1.0)
placed = Topic("order.placed", int)

def note(name, line):
    descriptor = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{line}\\n".encode())
    os.close(descriptor)

number = 0
while not os.path.exists("enough"):
    receipts = [(one, bus.publish(placed, one)) for one in range(number, number + 10)]
    number += 10
    for one, receipt in receipts:
        try:
            receipt.wait(30)
            note("confirmed", one)
        except PublishFailed as error:
            note("refused", error)
    if number < 100:
        continue
bus.close()
"""
LOCKING = """
import select, sys, apsw
store = apsw.Connection(sys.argv[1])
store.set_busy_timeout(10_000)
store.execute("BEGIN IMMEDIATE")
print("held", flush=True)
select.select([], [], [], float(sys.argv[2]))
store.execute("ROLLBACK")
"""


class Trade:
    """Services on one bus, and a publisher that writes down what was confirmed and what was refused."""

    def __init__(self, home: Home, command: Command, broker: str) -> None:
        self.home, self.broker, self.stage = home, broker, Stage(command, home)
        self.env = {"BUSWORKER_BROKER": broker}
        self.services: dict[str, Service] = {}
        for name in SERVICES:
            home.write(f"{name}.py", APP.format(name))
            self.services[name] = self.stage.start(name, env=self.env)
        self.pids = self.tree()
        self.publisher = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER], cwd=home.path, env={**home.env, **self.env}, start_new_session=True
        )

    def tree(self) -> set[int]:
        """Every process of the services."""
        return {member.pid for service in self.services.values() for member in service.tree()}

    def lines(self, name: str) -> list[str]:
        path = self.home.path / name
        return path.read_text().splitlines() if path.exists() else []

    def wait_more(self, name: str, count: int) -> None:
        """Waits until so many more lines were written down."""
        already = len(self.lines(name))
        wait_until(lambda: len(self.lines(name)) >= already + count, 60, f"{count} more {name}")

    def end(self) -> None:
        """Ends the publisher, and checks that all went on: each confirmed message once in each service, by the same
        processes."""
        (self.home.path / "enough").touch()
        assert self.publisher.wait(60) == 0
        confirmed = Counter(self.lines("confirmed"))
        for name in SERVICES:
            wait_until(lambda name=name: len(self.stage.record(name)) >= len(confirmed), 60, f"all handled by {name}")
            assert Counter(line.event for line in self.stage.record(name)) == confirmed
        assert self.tree() == self.pids
        for service in self.services.values():
            assert service.terminate() == 0

    def close(self) -> None:
        if self.publisher.poll() is None:
            self.publisher.kill()
            self.publisher.wait()


@contextmanager
def trade(home: Home, command: Command, broker: str) -> Iterator[Trade]:
    """A trade under way."""
    trade = Trade(home, command, broker)
    try:
        trade.wait_more("confirmed", 100)
        yield trade
    finally:
        trade.close()


def test_a_foreign_process_that_holds_the_write_lock_only_delays(home: Home, command: Command) -> None:
    with trade(home, command, f"filesystem://{home.path}/bus") as going:
        store = str(home.path / "bus" / "bus.db")
        holding = [sys.executable, "-c", LOCKING, store, str(LOCK_SECONDS)]
        assert subprocess.run(holding, capture_output=True, text=True, check=True, timeout=60).stdout == "held\n"
        assert going.lines("refused")
        assert all("lock" in line for line in going.lines("refused"))
        going.wait_more("confirmed", 100)
        going.end()


def test_somebody_who_lists_many_dead_letters_holds_nothing_up(home: Home, command: Command) -> None:
    broker = f"filesystem://{home.path}/bus"
    with trade(home, command, broker) as going:
        channel: Any = kombu.Connection(broker, transport="busworker.transports:FilesystemTransport").channel()
        channel.tx_select()
        for first in range(0, LISTED, 500):
            for number in range(first, first + 500):
                message = Message(b'"' + b"x" * 500 + b'"', message_id=f"dead-{number}")
                channel.basic_publish(message, "", "busworker.order.placed/audit.pool/dead")
            channel.tx_commit()
        channel.connection.close()
        done = command.run("dead", "list", "--limit", "0", "--json", "--broker", broker, timeout=120)
        assert len(json.loads(done.stdout)) == LISTED
        assert (home.path / "bus" / "bus.db-wal").stat().st_size < WAL_BOUND
        assert not going.lines("refused")
        going.end()


IN_A_NAMESPACE = """
import subprocess, sys
from pathlib import Path
from tests.faults.test_store_obstacles import full_disk
from tests.support import Command, Home

home = Home(Path(sys.argv[1]), sys.argv[2])
(home.path / "disk").mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(home.path / "disk")], check=True)
command = Command(home)
try:
    full_disk(home, command)
finally:
    command.close()
"""


def full_disk(home: Home, command: Command) -> None:
    """Three services on a disk of 20 MB, which somebody else fills to the last byte and frees again."""
    disk = home.path / "disk"
    with trade(home, command, f"filesystem://{disk}/bus") as going:
        # Again and again: the bus gives back what it doesn't need, as long as there is some.
        wait_until(lambda: fill(disk / "foreign") and len(going.lines("refused")) >= 30, 60, "30 refused")
        assert all(str(disk) in line and "free some space" in line for line in going.lines("refused"))
        (disk / "foreign").unlink()
        going.wait_more("confirmed", 100)
        going.end()


def fill(path: Path) -> bool:
    """Writes a file until the disk is full; True."""
    with path.open("ab", 0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return True


def test_a_full_disk_stops_publishers_and_nothing_else(home: Home) -> None:
    # Without the mark of what a test starts: what it leaves is killed by that, from within.
    env = {name: value for name, value in home.env.items() if name != MARKER}
    run_where_it_may_mount(IN_A_NAMESPACE, str(home.path), home.marker, env=env, timeout=110)
