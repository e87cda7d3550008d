"""Rates of the embedded store beside bare apsw loops on the same disk, in one run.

    python contrib/benchmarks/engine_rates.py [--messages 20000] [--backlog 1000000] [--folder /var/tmp]

The bare loops do the least that publishing and claiming durably takes: one table with one index, rows of the same
size, synced, in batches. Ours goes through the kombu channel: transactions of publishes, consuming with a prefetch
for the channel, acknowledging in transactions.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import kombu
from amqp.basic_message import Message

BATCH = 100
BODY = b'{"user_id": 42, "email": "somebody@example.org", "note": "%s"}' % (b"x" * 92)
HEADERS = {"x-busworker-topic": "user.registered"}
PROPERTIES: dict[str, Any] = {
    "content_type": "application/json",
    "delivery_mode": 2,
    "message_id": "0190f5a1b2c37def8123456789abcdef",
    "type": "user.registered",
    "timestamp": 1_760_000_000,
    "app_id": "signup",
    "application_headers": HEADERS,
}


class Bare:
    """The loops without anything around them."""

    def __init__(self, folder: Path) -> None:
        self.db = apsw.Connection(str(folder / "bare.db"))
        self.db.execute(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE message(seq INTEGER PRIMARY KEY, "
            "queue TEXT, claimer INTEGER, properties BLOB, body BLOB); "
            "CREATE INDEX ready ON message(queue, seq) WHERE claimer IS NULL"
        ).fetchall()

    def publish(self, count: int) -> None:
        properties = b"p" * 180
        for _ in range(count // BATCH):
            self.db.execute("BEGIN IMMEDIATE")
            rows = [("q", properties, BODY) for _ in range(BATCH)]
            self.db.executemany("INSERT INTO message(queue, properties, body) VALUES (?, ?, ?)", rows)
            self.db.execute("COMMIT")

    def consume(self, count: int) -> None:
        claim = (
            "UPDATE message SET claimer = 1 WHERE seq IN "
            "(SELECT seq FROM message WHERE queue = 'q' AND claimer IS NULL "
            "ORDER BY seq LIMIT 100) RETURNING seq, properties, body"
        )
        for _ in range(count // BATCH):
            self.db.execute("PRAGMA synchronous=NORMAL; BEGIN IMMEDIATE")
            rows = self.db.execute(claim).fetchall()
            self.db.execute("COMMIT; PRAGMA synchronous=FULL; BEGIN IMMEDIATE")
            self.db.executemany("DELETE FROM message WHERE seq = ?", [(row[0],) for row in rows])
            self.db.execute("COMMIT")


class Ours:
    """The same through the channel, as busworker's session uses it."""

    def __init__(self, folder: Path) -> None:
        url = f"filesystem://{folder}/store"
        self.connection = kombu.Connection(url, transport="busworker.transports:FilesystemTransport")
        self.channel: Any = self.connection.channel()
        self.channel.exchange_declare("events", "topic")
        self.channel.queue_declare("q", auto_delete=False)
        self.channel.queue_bind("q", "events", "user.registered")
        self.channel.tx_select()
        self.arrived: list[Any] = []

    def publish(self, count: int) -> None:
        for _ in range(count // BATCH):
            for _ in range(BATCH):
                self.channel.basic_publish(Message(BODY, **PROPERTIES), "events", "user.registered", mandatory=True)
            self.channel.tx_commit()

    def start_consuming(self) -> None:
        self.channel.basic_qos(0, BATCH, True)
        self.channel.basic_consume("q", callback=self.arrived.append)

    def consume(self, count: int) -> None:
        done = 0
        while done < count:
            self.connection.drain_events(timeout=5)
            for message in self.arrived:
                self.channel.basic_ack(message.delivery_tag)
            done += len(self.arrived)
            self.arrived.clear()
            self.channel.tx_commit()


def rate(work: Callable[[int], None], count: int) -> float:
    """Messages a second."""
    start = time.perf_counter()
    work(count)
    return count / (time.perf_counter() - start)


def compare(folder: Path, count: int, rounds: int) -> Ours:
    """Prints both rates, the best of several rounds that take turns."""
    bare, ours = Bare(folder), Ours(folder)
    ours.start_consuming()
    steps = {"publish": (bare.publish, ours.publish), "consume+ack": (bare.consume, ours.consume)}
    best = {name: [0.0, 0.0] for name in steps}
    for _ in range(rounds):
        for name, works in steps.items():
            best[name] = [max(old, rate(work, count)) for old, work in zip(best[name], works, strict=True)]
    print(f"{'batches of 100, synced':28}{'bare apsw':>12}{'channel':>12}{'ratio':>8}")
    for name, (bare_rate, our_rate) in best.items():
        print(f"{name:28}{bare_rate:>10,.0f}/s{our_rate:>10,.0f}/s{our_rate / bare_rate:>8.2f}")
    return ours


def flatness(ours: Ours, count: int, backlog: int) -> None:
    """Prints the rates at a small and at a large backlog."""
    print(f"\n{'backlog':28}{'publish':>12}{'consume+ack':>12}")
    held = 0
    for wanted in (1000, backlog):
        ours.publish(wanted - held)
        held = wanted
        rates = [(rate(ours.publish, count), rate(ours.consume, count)) for _ in range(3)]
        print(f"{held:<28,}{max(one for one, _ in rates):>10,.0f}/s{max(two for _, two in rates):>10,.0f}/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backlog", type=int, default=1_000_000)
    parser.add_argument("--folder", default="/var/tmp")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        ours = compare(folder, options.messages, options.rounds)
        flatness(ours, options.messages, options.backlog)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
