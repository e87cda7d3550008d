"""Programs that fork while they use an embedded bus: `python -m tests.faults.store_programs NAME URL [ROUNDS]`.

They are processes of their own, since the tests' may have threads. What fails ends them with an exception.
"""

import gc
import os
import select
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import kombu
from amqp.basic_message import Message as AmqpMessage

from busworker.transports.transport import FilesystemTransport, MemoryTransport

RACERS = 10
TRANSPORTS = {"filesystem": FilesystemTransport, "memory": MemoryTransport}
PATIENCE = 20.0


def connected(url: str) -> Any:
    """A channel of a connection of its own."""
    transport: Any = TRANSPORTS[url.partition(":")[0]]
    return kombu.Connection(url, transport=transport).channel()


def put(channel: Any, queue: str, *bodies: str) -> None:
    for body in bodies:
        channel.basic_publish(AmqpMessage(body.encode()), "", queue)


def taken(channel: Any, queue: str) -> list[str]:
    """All that is ready, acknowledged."""
    found: list[str] = []
    while raw := channel.basic_get(queue, no_ack=True):
        found.append(raw.body.decode())
    return found


# A race from nothing


def race(url: str, rounds: int) -> None:
    """Ten processes at once find no bus in use; each declares, binds, publishes and consumes."""
    for _ in range(rounds):
        race_once(url)  # in memory it is wiped in between


def race_once(url: str) -> None:
    start, finish = Gate(), Gate()
    racers = [Child(partial(run_race, url, f"q{name}", start, finish)) for name in range(RACERS)]
    start.open()
    told = [racer.line() for racer in racers]
    assert told == [["once"]] * RACERS, told
    look = Child(partial(declared, url))
    assert look.line() == sorted(f"q{name}" for name in range(RACERS))
    finish.open()
    for child in (*racers, look):
        child.end()


def run_race(url: str, name: str, start: "Gate", finish: "Gate") -> None:
    start.wait()
    channel = connected(url)
    channel.exchange_declare("events", "topic")
    channel.queue_declare(name, auto_delete=False)
    channel.queue_bind(name, "events", f"{name}.#")
    channel.basic_publish(AmqpMessage(b"once"), "events", f"{name}.x")
    arrived: list[Any] = []
    channel.basic_consume(name, callback=arrived.append)
    channel.connection.drain_events(timeout=PATIENCE)
    channel.basic_ack(arrived[0].delivery_tag)
    say(*(raw.body.decode() for raw in arrived))
    finish.wait()
    channel.connection.close()


def declared(url: str) -> None:
    channel = connected(url)
    names = channel.queue_names()
    assert all(channel.routes("events", f"{name}.y") == [name] for name in names)
    say(*names)


# Forks with open connections


def fork_idle(url: str, rounds: int) -> None:
    """Parent and child go on with the same connection; what the parent has claimed stays its own."""
    channel = connected(url)
    channel.queue_declare("work", auto_delete=False)
    put(channel, "work", "held")
    held = channel.basic_get("work")
    for number in range(rounds):
        child = Child(partial(inherited, channel, number, close=number % 2 == 0))
        put(channel, "work", f"parent {number}")
        assert child.line() == ["published"]
        child.end()
        assert channel.queue_counts("work")[1] == 1, "the child took the parent's claim along"
        assert sorted(taken(channel, "work")) == [f"child {number}", f"parent {number}"]
    channel.basic_ack(held.delivery_tag)
    assert channel.queue_counts("work") == (0, 0)
    channel.connection.close()


def inherited(channel: Any, number: int, *, close: bool) -> None:
    put(channel, "work", f"child {number}", f"child takes {number}")
    while (raw := channel.basic_get("work")).body != f"child takes {number}".encode():
        pass  # what is seen on the way goes back when this process is gone
    channel.basic_ack(raw.delivery_tag)
    channel.basic_recover()
    say("published")
    if close:
        channel.connection.close()


def fork_beside(url: str, rounds: int, work: Callable[[Any], None]) -> None:
    """Forks again and again while another thread works; each child publishes by both threads' connections."""
    main, others = connected(url), connected(url)
    main.queue_declare("work", auto_delete=False)
    main.queue_declare("noise", auto_delete=False)
    stop = threading.Event()
    thread = threading.Thread(target=lambda: repeat(lambda: work(others), stop))
    thread.start()
    try:
        for number in range(rounds):
            child = Child(partial(put_by_both, main, others, number))
            put(main, "work", f"{number} parent")
            assert child.line() == ["published"]
            child.end()
    finally:
        stop.set()
        thread.join()
    wanted = Counter(f"{number} {who}" for number in range(rounds) for who in ("parent", "main", "other"))
    assert Counter(taken(main, "work")) == wanted
    main.connection.close()
    others.connection.close()


def put_by_both(main: Any, others: Any, number: int) -> None:
    put(main, "work", f"{number} main")
    put(others, "work", f"{number} other")
    say("published")


def fork_beside_reader(url: str, rounds: int) -> None:
    fork_beside(url, rounds, lambda channel: channel.browse("work"))


def fork_beside_opener(url: str, rounds: int) -> None:
    fork_beside(url, rounds, lambda channel: connected(url).connection.close())


def fork_beside_writer(url: str, rounds: int) -> None:
    fork_beside(url, rounds, write)


def write(channel: Any) -> None:
    put(channel, "noise", "x" * 2000)
    assert taken(channel, "noise")


def repeat(action: Callable[[], object], stop: threading.Event) -> None:
    while not stop.is_set():
        action()


# Children


class Child:
    """A forked process; `say` in it is a `line` here. It must end well."""

    said: int = -1

    def __init__(self, work: Callable[[], None]) -> None:
        self._read, write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            Child.said = write
            _run(work)
        os.close(write)

    def line(self) -> list[str]:
        """What it said."""
        if not select.select([self._read], [], [], PATIENCE)[0]:
            os.kill(self._pid, signal.SIGKILL)
            raise AssertionError("a child hangs")
        return [word for word in os.read(self._read, 65536).decode().split("\n") if word]

    def end(self) -> None:
        """Waits for it."""
        os.close(self._read)
        _, status = os.waitpid(self._pid, 0)
        assert status == 0, f"a child has failed: {status}"


def say(*words: str) -> None:
    os.write(Child.said, "".join(f"{word}\n" for word in words).encode())


def _run(work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException:  # noqa: BLE001  told on stderr
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


class Gate:
    """Closed until somebody opens it; made before the fork."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def open(self) -> None:
        os.close(self._write)
        os.close(self._read)

    def wait(self) -> None:
        os.close(self._write)
        os.read(self._read, 1)


PROGRAMS = {
    "race": race,
    "fork-idle": fork_idle,
    "fork-beside-reader": fork_beside_reader,
    "fork-beside-opener": fork_beside_opener,
    "fork-beside-writer": fork_beside_writer,
}

if __name__ == "__main__":
    gc.freeze()
    PROGRAMS[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
