"""Publishers in processes that are killed, that fork, that are interrupted by signals, or that run an event loop."""

import json
import os
import random
import signal
import time

from busworker.broker.session import Session
from tests.contract.bench import PATIENCE, Bench, ids, queued, wait_ready
from tests.support import wait_until

KILLS = int(os.environ.get("PUBLISHER_KILLS", "3"))
"""How often a publisher is killed, on each transport."""

KILLED = """
import os, sys
from busworker import Bus, Topic
topic = Topic("user.registered", int)
bus = Bus("signup", broker=sys.argv[1], publish_deadline=60)
out = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
number = 0
while True:
    receipt = bus.publish(topic, number, id=f"{os.getpid()}-{number}")
    receipt.add_done_callback(lambda one: one.state == "confirmed" and os.write(out, f"{one.id}\\n".encode()))
    number += 1
    if number % 50 == 0:
        receipt.wait()
        print(number, flush=True)
"""
FORKED = """
import json, os, sys
from busworker import Bus, Topic
topic = Topic("user.registered", int)
bus = Bus("signup", broker=sys.argv[1], publish_deadline=60)

def connections():
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            pass
    return sorted(one for one in found if one.startswith("socket:"))

bus.publish(topic, 0, id="parent-0").wait()
children = {}
for child in range(8):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        for number in range(20):
            receipt = bus.publish(topic, number, id=f"{child}-{number}")
        receipt.wait()
        os.write(writing, json.dumps(connections()).encode() + b"\\n")
        sys.stdin.buffer.readline()  # all are connected at once
        os._exit(0)
    os.close(writing)
    children[pid] = open(reading)
theirs = [json.loads(answer.readline()) for answer in children.values()]
bus.publish(topic, 1, id="parent-1").wait()
print(json.dumps([connections(), *theirs]), flush=True)
for pid in children:
    os.waitpid(pid, 0)
bus.close()
"""
UNTOLD = """
import ctypes, os, sys
from busworker import Bus, Topic
topic = Topic("user.registered", int)
bus = Bus("signup", broker=sys.argv[1])
bus.publish(topic, 0).wait()
pid = ctypes.PyDLL(None).fork()  # as uWSGI does, so that Python runs no hook
if pid == 0:
    receipt = bus.publish(topic, 1)
    print(receipt.state, receipt.error, flush=True)
    bus.flush()
    sys.exit()
assert os.waitpid(pid, 0)[1] == 0
bus.publish(topic, 2).wait()
"""
INTERRUPTED = """
import signal, sys, time
from busworker import Bus, Topic
topic = Topic("user.registered", int)
bus = Bus("signup", broker=sys.argv[1], publish_deadline=60)
bus.publish(topic, 0).wait()
receipts, interrupts = [], 0

def publish_more(number, frame):
    global interrupts
    interrupts += 1
    receipts.append(bus.publish(topic, -1))
    signal.setitimer(signal.ITIMER_REAL, 0.0005)

signal.signal(signal.SIGALRM, publish_more)
signal.setitimer(signal.ITIMER_REAL, 0.0005)
while interrupts < 200 or len(receipts) < 2000:
    receipts.append(bus.publish(topic, 1))
signal.setitimer(signal.ITIMER_REAL, 0)
for receipt in receipts:
    receipt.wait()
bus.close()
print(len(receipts), bus._port is None, flush=True)
"""
AWAITED = """
import asyncio, sys
from busworker import Bus, Topic
topic = Topic("user.registered", int)
bus = Bus("signup", broker=sys.argv[1], publish_deadline=60)

async def task(first):
    return [(await bus.publish(topic, first + number)).state for number in range(20)]

async def main():
    return [state for states in await asyncio.gather(*(task(20 * number) for number in range(100))) for state in states]

states = asyncio.run(main())
bus.close()
print(len(states), set(states), flush=True)
"""

MULTIPROCESSED = """
import multiprocessing, sys
from busworker import Bus, Topic
topic = Topic("user.registered", int)
bus = Bus("signup", broker=sys.argv[1], publish_deadline=60)

def publish(first):
    for number in range(500):
        bus.publish(topic, first + number)

if __name__ == "__main__":
    bus.publish(topic, -1)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=publish, args=(500 * number,)) for number in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    print([child.exitcode for child in children], flush=True)
"""


def test_what_a_killed_publisher_had_confirmed_is_stored(bench: Bench, session: Session, work: str) -> None:
    chance, path = random.Random(KILLS), bench.home.path / "confirmed"
    for _ in range(KILLS):
        process = bench.start(KILLED, str(path))
        assert process.stdout is not None
        assert process.stdout.readline() == "50\n"
        time.sleep(chance.uniform(0.0, 0.1))  # a moment by chance, with the seed
        process.send_signal(signal.SIGKILL)
        process.wait()
    confirmed = [line for line in path.read_text().split("\n")[:-1] if line]
    assert len(confirmed) >= 50 * KILLS
    # A broker counts late, and what wasn't confirmed when its publisher was killed may be stored just now.
    wait_until(lambda: not set(confirmed) - stored(session, work), PATIENCE, "all that was confirmed")


def test_children_that_are_forked_at_once_have_connections_of_their_own(
    bench: Bench, session: Session, work: str
) -> None:
    process = bench.start(FORKED)
    assert process.stdout is not None
    connections = json.loads(process.stdout.readline())
    process.communicate("\n" * 8, timeout=30)
    wanted = {f"{child}-{number}" for child in range(8) for number in range(20)} | {"parent-0", "parent-1"}
    assert sorted(map(str, ids(queued(session, work, len(wanted))))) == sorted(wanted)
    seen = [one for process_ in connections for one in process_]
    assert len(seen) == len(set(seen)), "a connection is shared"
    if bench.scheme == "amqp":
        assert len(seen) >= 9


def test_a_child_that_was_forked_behind_pythons_back_is_refused_at_once(
    bench: Bench, session: Session, work: str
) -> None:
    out, _ = bench.start(UNTOLD).communicate(timeout=30)
    assert out.startswith("failed this process was forked after its parent had published, and Python wasn't told")
    assert "py-call-osafterfork = true" in out
    wait_ready(session, work, 2)


def test_a_signal_handler_may_publish_while_it_interrupts_publishing(bench: Bench, session: Session, work: str) -> None:
    process = bench.start(INTERRUPTED)
    out, _ = process.communicate(timeout=60)
    count, closed = out.split()
    assert closed == "True"
    wait_ready(session, work, int(count) + 1)


def test_thousands_of_receipts_are_awaited_by_many_tasks(bench: Bench, session: Session, work: str) -> None:
    out, _ = bench.start(AWAITED).communicate(timeout=60)
    assert out == "2000 {'confirmed'}\n"
    wait_ready(session, work, 2000)


def test_processes_of_multiprocessing_flush_when_they_end(bench: Bench, session: Session, work: str) -> None:
    out, _ = bench.start(MULTIPROCESSED).communicate(timeout=60)
    assert out == "[0, 0, 0]\n"
    wait_ready(session, work, 1501)


def stored(session: Session, queue: str) -> set[str]:
    return {str(delivery.properties["message_id"]) for delivery in session.browse(queue, newest_first=False)}
