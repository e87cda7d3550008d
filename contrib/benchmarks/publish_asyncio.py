"""How long publishing holds up an event loop: 10,000 receipts awaited by 100 tasks, and a task that only looks.

    python contrib/benchmarks/publish_asyncio.py [--receipts 10000] [--tasks 100] [--rounds 5] [--broker URL]...

Each round, in turns: the tasks do nothing but yield to the loop (`idle`), and then the same with each broker that is
given; without any, a memory:// bus, a filesystem:// one in /var/tmp, and RabbitMQ (a node of its own, quorum queues).
The figure is the longest time between two turns of the loop, in milliseconds. To reach: 10. On a machine with other
work `idle` has such gaps too; and a thread that computes has the interpreter's lock for up to 5 ms at a time
(sys.getswitchinterval).
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from amqp_node import own_node

from busworker import Bus, Topic

EVENTS: Topic[dict[str, object]] = Topic("user.registered", dict[str, object])
EVENT: dict[str, object] = {"user_id": 42, "email": "somebody@example.org", "note": "x" * 92}


async def look(stop: asyncio.Event) -> float:
    """The longest time between two turns of the loop, in seconds."""
    longest, last = 0.0, time.perf_counter()
    while not stop.is_set():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


async def publish(bus: Bus | None, count: int) -> None:
    """One task."""
    for _ in range(count):
        if bus is None:
            await asyncio.sleep(0)
        else:
            await bus.publish(EVENTS, EVENT)


async def measure(bus: Bus | None, receipts: int, tasks: int) -> tuple[float, float]:
    """The longest gap in milliseconds, and receipts a second."""
    if bus is not None:
        await bus.publish(EVENTS, EVENT)  # connected
    stop = asyncio.Event()
    looking = asyncio.create_task(look(stop))
    began = time.perf_counter()
    await asyncio.gather(*(publish(bus, receipts // tasks) for _ in range(tasks)))
    took = time.perf_counter() - began
    stop.set()
    return 1000 * await looking, receipts / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--receipts", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--broker", action="append", default=[])
    given = parser.parse_args()
    with ExitStack() as opened:
        folder = Path(tempfile.mkdtemp(prefix="busworker-asyncio-", dir="/var/tmp"))
        opened.callback(shutil.rmtree, folder, ignore_errors=True)
        brokers: list[str] = given.broker
        if not brokers:
            node = own_node(folder / "node")
            opened.callback(node.close)
            node.start()
            brokers = ["memory://publish-asyncio", f"filesystem://{folder}/bus", node.url()]
        buses: dict[str, Bus | None] = {"idle": None}
        buses |= {url.partition(":")[0]: Bus("bench", broker=url, publish_deadline=60) for url in brokers}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in buses}
        for _ in range(given.rounds):
            for name, bus in buses.items():
                found[name].append(asyncio.run(measure(bus, given.receipts, given.tasks)))
        for bus in buses.values():
            if bus is not None:
                bus.close()
    print(f"{'':12}{'longest gap, ms':>40}{'median':>8}{'a second':>10}")
    for name, figures in found.items():
        gaps = [gap for gap, _ in figures]
        rate = statistics.median(rate for _, rate in figures)
        print(f"{name:12}{' '.join(f'{gap:.1f}' for gap in gaps):>40}{statistics.median(gaps):8.1f}{rate:10,.0f}")


if __name__ == "__main__":
    main()
