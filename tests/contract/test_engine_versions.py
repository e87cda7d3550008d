"""Stores of other schema versions: an older one is brought up to date with all it holds, a newer one is left alone."""

from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from amqp.basic_message import Message as AmqpMessage

from busworker.errors import BrokerUnavailable
from tests.contract.bench import Bench
from tests.support import Home

OLD = Path(__file__).with_name("store_v1.sql")


@pytest.fixture
def folder(home: Home) -> Path:
    """The folder of a store of schema 1."""
    folder = home.path / "bus"
    folder.mkdir()
    with closing(apsw.Connection(str(folder / "bus.db"))) as database:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL").fetchall()
        database.execute("PRAGMA journal_mode = WAL").fetchall()
        database.execute(OLD.read_text()).fetchall()
    return folder


def drained(channel: Any, queue: str) -> list[tuple[bytes | str, bool]]:
    """What can be got from a queue, in order, and whether it was got before."""
    found: list[tuple[bytes | str, bool]] = []
    while raw := channel.basic_get(queue):
        found.append((raw.body, raw.delivery_info["redelivered"]))
        channel.basic_ack(raw.delivery_tag)
    return found


def test_an_old_store_is_brought_up_to_date_with_its_messages_claims_and_bindings(folder: Path, home: Home) -> None:
    with Bench(f"filesystem://{folder}", home) as bench:
        channel = bench.kombu().channel()
        ready = [(b"ready 0", True), (b"ready 1", True), *((b"ready %d" % n, False) for n in (2, 3, 4))]
        assert drained(channel, "work") == [*ready, (b"expires", False)]
        assert drained(channel, "dead") == [(b"dead", False)]
        assert drained(channel, "spare") == [(b"unrouted", False)]
        assert [raw.body for raw in channel.browse("wait")] == [b"waits"]
        assert channel.routes("events", "a.x") == ["work"]
        assert channel.routes("events", "b") == ["spare"]
        channel.basic_publish(AmqpMessage("new"), "events", "a.c")
        assert drained(channel, "work") == [("new", False)]


def test_processes_that_open_an_old_store_at_once_bring_it_up_to_date_once(folder: Path, home: Home) -> None:
    script = (
        "import sys, kombu; channel = kombu.Connection(sys.argv[1], "
        "transport='busworker.transports:FilesystemTransport').channel(); sys.stdin.readline(); "
        "print(channel.queue_declare('work', passive=True).message_count, flush=True)"
    )
    with Bench(f"filesystem://{folder}", home) as bench:
        processes = [bench.start(script) for _ in range(4)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        answers = [process.stdout.readline().strip() for process in processes if process.stdout]
        assert answers == ["6"] * 4


def test_a_newer_store_is_a_clear_error_and_left_alone(folder: Path, home: Home) -> None:
    with closing(apsw.Connection(str(folder / "bus.db"))) as database:
        database.execute("PRAGMA user_version = 99").fetchall()
    content = (folder / "bus.db").read_bytes()
    advice = "schema 99, this busworker knows 3: upgrade busworker"
    with Bench(f"filesystem://{folder}", home) as bench, pytest.raises(BrokerUnavailable, match=advice):
        bench.session()
    assert (folder / "bus.db").read_bytes() == content
