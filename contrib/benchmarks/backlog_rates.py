"""What a backlog costs: rates, memory and file size at 1,000, 100,000 and 1,000,000 messages.

    python contrib/benchmarks/backlog_rates.py [--most 1000000] [--messages 20000] [--rounds 5] [--folder /var/tmp]

First the kombu channel alone: messages are published and consumed while so many others are ready, and while so many
wait in a queue with a TTL, as retries do. Rounds take turns with the bare loops of `engine_rates.py`, so that a slow
moment of the machine doesn't pass for a slow backlog. Then a whole service drains the largest backlog: the rate over
each fifth of it, the memory of its consumer, and the size of the file before and after.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import kombu
import psutil
from amqp.basic_message import Message
from engine_rates import BODY, PROPERTIES, Bare, Ours, rate
from pool_rates import WAIT, Service

WAITING_MS = 3_600_000


def fill(ours: Ours, ready: int, waiting: int) -> None:
    """Leaves so many messages ready and waiting beside those that are measured."""
    ours.channel.queue_declare("wait", auto_delete=False, arguments={"x-message-ttl": WAITING_MS})
    ours.publish(ready)
    for _ in range(waiting // 1000):
        for _ in range(1000):
            ours.channel.basic_publish(Message(BODY, **PROPERTIES), "", "wait")
        ours.channel.tx_commit()


def measured(folder: Path, backlogs: list[tuple[int, int]], count: int, rounds: int) -> None:
    """Prints the rates of the channel at each backlog (ready, waiting), as a part of the bare loops' in that round."""
    bare = Bare(folder)
    stores: list[Ours] = []
    for number, (ready, waiting) in enumerate(backlogs):
        (folder / str(number)).mkdir()
        stores.append(Ours(folder / str(number)))
        fill(stores[-1], ready, waiting)
        stores[-1].start_consuming()
    found: list[list[tuple[float, float]]] = [[] for _ in backlogs]
    for _ in range(rounds):
        base = rate(bare.publish, count), rate(bare.consume, count)
        for ours, rates in zip(stores, found, strict=True):
            rates.append((rate(ours.publish, count) / base[0], rate(ours.consume, count) / base[1]))
    print(f"{'ready':>12}{'waiting':>12}   publish and consume, each as a part of the bare loop (medians)")
    for (ready, waiting), rates in zip(backlogs, found, strict=True):
        publish, consume = (statistics.median(column) for column in zip(*rates, strict=True))
        print(f"{ready:>12,}{waiting:>12,}   {publish:.2f} {consume:.2f}")
    for ours in stores:
        ours.connection.release()


def drained(folder: Path, backlog: int) -> None:
    """Drains a backlog with a service; prints rates, memory and sizes."""
    service = Service(folder)
    service.start_once()
    publish_to(service, backlog)
    file = folder / "bus" / "bus.db"
    before = file.stat().st_size
    process = service.start()
    marks: list[tuple[float, int, int]] = []

    def handled() -> bool:
        consumer = _consumer(process.pid)
        marks.append((time.monotonic(), service.channel(0)["processed"], consumer.memory_info().rss if consumer else 0))
        return marks[-1][1] >= backlog

    service.run_until(handled, pause=0.1)
    fifths = [next(mark for mark in marks if mark[1] >= backlog * part // 5) for part in range(6)]
    rates = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(fifths[1:])]
    print(f"a service drains {backlog:,}: " + ", ".join(f"{one:,.0f}/s" for one in rates) + " (fifths 2 to 5)")
    print("memory of its consumer: " + ", ".join(f"{mark[2] / 1e6:.1f} MB" for mark in fifths[1:]))
    service.run_until(lambda: file.stat().st_size < before / 10, pause=0.1)
    print(f"file: {before / 1e6:,.1f} MB before, {file.stat().st_size / 1e6:,.1f} MB after")
    process.terminate()
    process.wait(WAIT)


def publish_to(service: Service, count: int) -> None:
    """Puts messages into the bus of a service, in large transactions."""
    channel: Any = kombu.Connection(service.url, transport="busworker.transports:FilesystemTransport").channel()
    channel.tx_select()
    properties = {**PROPERTIES, "type": "bench.noop", "application_headers": {}}
    for first in range(0, count, 1000):
        for number in range(first, first + 1000):
            message = Message(BODY, **{**properties, "message_id": f"{number:032}"})
            channel.basic_publish(message, "busworker", "bench.noop")
        channel.tx_commit()
    channel.connection.close()


def _consumer(supervisor: int) -> psutil.Process | None:
    for child in psutil.Process(supervisor).children():
        if "consumer bench.noop" in " ".join(child.cmdline()):
            return child
    return None


def main() -> None:
    """Runs both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="backlog-", dir=given.folder))
    try:
        backlogs = [(1000, 0), (given.most // 10, 0), (given.most, 0), (1000, given.most)]
        measured(folder, backlogs, given.messages, given.rounds)
        drained(folder, given.most)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
