"""Many processes on one store: races at its making, forks with open connections, several buses, kills at random."""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from amqp.basic_message import Message

from tests.contract.bench import Bench
from tests.support import Home
from tests.support.embedded import SCHEMES, embedded_url

REPOSITORY = Path(__file__).parents[2]
RACERS, ROUNDS = 10, 20

# One interpreter for all rounds: it forks the racers, who wait for a word and then open the store at once.
RACE = """
import os, sys
from busworker.broker.session import open_session
from busworker.transports.engine import lock  # all is imported before the forks
from tests.contract.bench import event

url, racers = sys.argv[1], int(sys.argv[2])
for round_ in range(int(sys.argv[3])):
    ready, go, end = os.pipe(), os.pipe(), os.pipe()
    children = []
    for racer in range(racers):
        child = os.fork()
        if child == 0:
            os.close(go[1])
            os.close(end[1])
            os.write(ready[1], b"r")
            os.read(go[0], 1)
            session = open_session(f"{url}{round_}")
            session.declare()
            work = session.declare_work("race.run", "racing", f"channel-{racer}")
            session.consume(work, 10)
            session.publish([event("race.run", message_id=f"from-{racer}")])
            os.write(ready[1], b"p")
            os.read(end[0], 1)
            session.close()
            os._exit(0)
        children.append(child)
    for _ in range(racers):
        os.read(ready[0], 1)
    os.write(go[1], b"g" * racers)
    for _ in range(racers):
        assert os.read(ready[0], 1) == b"p"
    observer = open_session(f"{url}{round_}")
    late = event("race.run", message_id="late")
    observer.publish([late])
    for racer in range(racers):
        counts = observer.counts(f"busworker.race.run/racing.channel-{racer}")
        assert counts.ready + counts.in_flight >= 2, (round_, racer, counts)
    os.close(end[1])
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    observer.close()
    for descriptor in (*ready, *go, end[0]):
        os.close(descriptor)
print("no racer fell", flush=True)
"""

FORKING = """
import os, sys, threading, kombu
from amqp.basic_message import Message

def channel():
    found = kombu.Connection(sys.argv[1], transport=f"busworker.transports:{sys.argv[2]}").channel()
    found.queue_declare("work", auto_delete=False)
    return found

mine = channel()
for number in range(4):
    mine.basic_publish(Message(str(number)), "", "work")
held = [mine.basic_get("work") for _ in range(2)]
busy, over = channel(), threading.Event()

def keep_busy():
    while not over.is_set():
        if sys.argv[3] == "writes":
            busy.basic_publish(Message("noise"), "", "noise")
        else:
            busy.browse("work")
            busy.queue_counts("work")

busy.queue_declare("noise", auto_delete=False)
thread = threading.Thread(target=keep_busy)
thread.start()
for life in range(20):
    child = os.fork()
    if child == 0:
        mine.basic_publish(Message(f"child {life}"), "", "work")
        got = mine.basic_get("work")
        mine.basic_ack(got.delivery_tag)
        mine.connection.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, life
over.set()
thread.join()
for raw in held:
    mine.basic_ack(raw.delivery_tag)
print(*(raw.body.decode() for raw in mine.browse("work")), sep=",", flush=True)
"""


def run(home: Home, script: str, *args: str, timeout: float = 100.0) -> str:
    """What a script prints that ends well."""
    done = subprocess.run(
        [sys.executable, "-c", script, *args],
        cwd=REPOSITORY,
        env=home.env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ten_processes_that_make_a_store_at_once_all_find_all(home: Home, scheme: str) -> None:
    with embedded_url(scheme, home) as url:
        assert run(home, RACE, f"{url}-", str(RACERS), str(ROUNDS)) == "no racer fell"


@pytest.mark.parametrize("busy", ["reads", "writes"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_children_forked_while_another_thread_uses_the_store_use_it_too(home: Home, scheme: str, busy: str) -> None:
    transport = {"filesystem": "FilesystemTransport", "memory": "MemoryTransport"}[scheme]
    with embedded_url(scheme, home) as url:
        # Two were held and acknowledged by the parent; twenty children took what came first, and put one in.
        assert run(home, FORKING, url, transport, busy) == ",".join(f"child {life}" for life in range(18, 20))


def test_two_buses_in_one_process_share_nothing(home: Home) -> None:
    with ExitStack() as stack:
        urls = [f"filesystem://{home.path}/one", f"filesystem://{home.path}/two"]
        urls += [stack.enter_context(embedded_url("memory", home))]
        channels: list[Any] = []
        for number, url in enumerate(urls):
            bench = stack.enter_context(Bench(url, home))
            channels.append(bench.kombu().channel())
            channels[-1].queue_declare("work", auto_delete=False)
            channels[-1].basic_publish(Message(f"bus {number}"), "", "work")
        for number, channel in enumerate(channels):
            assert [raw.body for raw in channel.browse("work")] == [f"bus {number}".encode()]
            assert channel.basic_get("work", no_ack=True).body == f"bus {number}"
            assert channel.basic_get("work") is None


@pytest.mark.parametrize("kills", [(), ("--kill-every", "0.15")])
def test_four_publish_and_four_consume_whoever_is_killed(home: Home, kills: tuple[str, ...]) -> None:
    command = [sys.executable, str(REPOSITORY / "contrib" / "benchmarks" / "many_processes.py"), "--messages", "8000"]
    done = subprocess.run(
        [*command, "--folder", str(home.path), *kills],
        env=home.env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 lost; integrity_check ok;" in done.stdout
    assert (" 0 kills" in done.stdout) == (not kills)
