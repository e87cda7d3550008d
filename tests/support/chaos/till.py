"""A publisher under chaos: FIRST COUNT, a number of orders, each under a name of its own until that is confirmed.

A refused order is tried again under another name, for a refusal may be wrong: the broker may have stored it. Writes
what it tries before it does, what was confirmed or refused after, each with the time, and lives until its stdin ends:
so a bus in memory lives too.
"""

import os
import sys
import time
from dataclasses import dataclass

from busworker import Bus, Topic
from busworker.errors import PublishFailed

AT_ONCE = 10


@dataclass(frozen=True)
class Order:
    name: str


def opened(name: str) -> int:
    return os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(descriptor: int, *names: str) -> None:
    os.write(descriptor, "".join(f"{name} {time.monotonic():.6f}\n" for name in names).encode())


def main(prefix: str, count: int, pace: float) -> None:
    bus = Bus("till", publish_deadline=0.5)
    placed = Topic("order.placed", Order)
    tried, confirmed, refused = opened("tried"), opened("confirmed"), opened("refused")
    number = done = 0
    while done < count:
        names = [f"{prefix}{number + n}" for n in range(min(AT_ONCE, count - done))]
        number += len(names)
        note(tried, *names)
        receipts = [(name, bus.publish(placed, Order(name), id=name)) for name in names]
        for name, receipt in receipts:
            try:
                receipt.wait(20)
            except PublishFailed:
                note(refused, name)
                continue
            note(confirmed, name)
            done += 1
        time.sleep(pace)
    print("done", flush=True)
    sys.stdin.read()
    bus.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
