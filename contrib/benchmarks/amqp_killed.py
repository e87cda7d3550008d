"""What a RabbitMQ that is killed brings back of what was acknowledged, on classic and on quorum queues.

    python contrib/benchmarks/amqp_killed.py [--messages 60000] [--acknowledged 5000,20000,40000] [--folder /var/tmp]

Messages are published and confirmed. A py-amqp loop acknowledges some of them, one by one, with a prefetch of 500, and
after the last one the node is killed by SIGKILL at once, while others are on their way out. Then it is
started again, and all that it has is read. No message may be missing; the exit code is 1 if one is.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import kombu
from amqp.basic_message import Message
from amqp_node import own_node
from amqp_raw import PREFETCH, WAIT, publish_confirmed

QUEUE = "killed"


def publish(url: str, queue_type: str, count: int) -> None:
    """Puts confirmed messages into a queue, each with its number as id."""
    with kombu.Connection(url) as connection:
        channel: Any = connection.channel()
        channel.queue_declare(QUEUE, durable=True, auto_delete=False, arguments={"x-queue-type": queue_type})
        messages = (Message(b"x" * 150, message_id=f"{number}", delivery_mode=2) for number in range(count))
        publish_confirmed(connection, channel, QUEUE, messages)


def acknowledge(connection: kombu.Connection, count: int) -> set[str]:
    """Acknowledges messages, and returns their ids; the connection stays open."""
    channel: Any = connection.channel()
    done: set[str] = set()

    def handle(message: Any) -> None:
        if len(done) < count:
            channel.basic_ack(message.delivery_tag)
            done.add(message.properties["message_id"])

    channel.basic_qos(0, PREFETCH, False)
    channel.basic_consume(QUEUE, callback=handle)
    while len(done) < count:
        connection.drain_events(timeout=WAIT)
    return done


def remaining(url: str, least: int) -> dict[str, bool]:
    """The ids of all messages that a queue has, and whether each is marked as redelivered."""
    found: dict[str, bool] = {}

    def handle(message: Any) -> None:
        found[message.properties["message_id"]] = bool(message.delivery_info["redelivered"])

    with kombu.Connection(url) as connection:
        connection.channel().basic_consume(QUEUE, no_ack=True, callback=handle)
        while True:
            try:
                connection.drain_events(timeout=5 if len(found) >= least else WAIT)
            except TimeoutError:
                return found


def measure(folder: Path, queue_type: str, count: int, acknowledged: int) -> bool:
    """Prints a line; returns whether nothing is missing."""
    node = own_node(folder / f"{queue_type}-{acknowledged}")
    try:
        node.start()
        publish(node.url(), queue_type, count)
        connection = kombu.Connection(node.url())
        done = acknowledge(connection, acknowledged)
        node.kill()
        node.start()
        left = remaining(node.url(), count - acknowledged)
    finally:
        node.close()
    back = done & left.keys()
    missing = count - len(done | left.keys())
    marked = sum(left[one] for one in back)
    print(f"{queue_type:10}{count:>11,}{acknowledged:>14,}{len(back):>11,}{marked:>15,}{missing:>10,}", flush=True)
    return not missing


def main() -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=60_000)
    parser.add_argument("--acknowledged", default="5000,20000,40000")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="amqp-killed-", dir=given.folder))
    print(f"{'queue':10}{'confirmed':>11}{'acknowledged':>14}{'came back':>11}{'of them marked':>15}{'missing':>10}")
    try:
        whole = [
            measure(folder, queue_type, given.messages, int(number))
            for number in given.acknowledged.split(",")
            for queue_type in ("classic", "quorum")
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if all(whole) else 1


if __name__ == "__main__":
    sys.exit(main())
