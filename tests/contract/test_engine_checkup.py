"""The checkup of a store and its repair: what is found, what is mended, and what a damaged file still gives."""

from contextlib import closing
from typing import Any

import apsw
import kombu
import pytest
from amqp.basic_message import Message as AmqpMessage

from busworker.errors import BrokerUnavailable
from busworker.transports.engine import checkup
from busworker.transports.engine.location import Location
from tests.contract.bench import Bench
from tests.support import Home

READY, CLAIMED = 60, 10
TTL = 86_400_000


@pytest.fixture
def store(home: Home) -> Location:
    """A store that nobody has open, with queues, bindings, ready and claimed messages, and some that expire."""
    where = Location(home.path / "bus", "full")
    with Bench(f"filesystem://{where.folder}", home) as bench:
        script = "import os, sys; from tests.contract.test_engine_checkup import fill; fill(sys.argv[1]); os._exit(0)"
        assert bench.start(script).wait(20) == 0
    with closing(opened(where)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return where


def fill(url: str) -> None:
    """Fills a store, and leaves some messages claimed."""
    channel: Any = kombu.Connection(url, transport="busworker.transports:FilesystemTransport").channel()
    channel.exchange_declare("events", "topic")
    channel.tx_select()
    for queue, arguments in (("work", {}), ("wait", {"x-message-ttl": TTL})):
        channel.queue_declare(queue, auto_delete=False, arguments=arguments)
        channel.queue_bind(queue, "events", "#")
    for number in range(READY + CLAIMED):
        channel.basic_publish(AmqpMessage(f"{number:04}" + "x" * 300), "events", "a.b")
    channel.tx_commit()
    for _ in range(CLAIMED):
        channel.basic_get("work")


def opened(where: Location) -> apsw.Connection:
    return apsw.Connection(str(where.database), flags=apsw.SQLITE_OPEN_READWRITE)


def taken(where: Location) -> int:
    """How many messages can be got, of all queues."""
    connection = kombu.Connection(f"filesystem://{where.folder}", transport="busworker.transports:FilesystemTransport")
    count = 0
    with connection, connection.channel() as channel:
        for queue in channel.queue_names():
            while raw := channel.basic_get(queue, no_ack=True):
                assert raw.body.endswith("x" * 300)
                count += 1
    return count


ALL = 2 * (READY + CLAIMED)


def test_a_store_in_use_is_whole(store: Location) -> None:
    found = checkup.check(store)
    assert (found.whole, found.queues, found.ready, found.claimed) == (True, 2, 2 * READY + CLAIMED, CLAIMED)


CONTRADICTIONS = {
    "UPDATE message SET queue = 77 WHERE seq % 2": "messages belong to no queue",
    "DELETE FROM message WHERE seq IN (SELECT seq FROM ready WHERE queue = 1 LIMIT 3)": "3 entries of ready have no",
    "DELETE FROM message WHERE seq IN (SELECT seq FROM claimed LIMIT 2)": "2 entries of claimed have no",
    "INSERT INTO ready SELECT queue, 0, seq, 1 FROM claimed": "10 messages are both ready and claimed",
    "DELETE FROM claimer": "10 messages are claimed by nobody",
    "DELETE FROM claimed": "10 messages are neither ready nor claimed",
    "UPDATE ready SET queue = 2 WHERE queue = 1": "60 messages are ready in another queue",
    "DELETE FROM expiry": "70 messages that expire have no due time",
    "INSERT INTO expiry VALUES (1, 999, 0)": "1 due times have no ready message",
    "INSERT INTO binding VALUES ('events', '#', 99)": "1 bindings lead to no queue",
    "UPDATE depth SET ready = 5": "2 queues have a wrong count",
    "DELETE FROM depth": "2 queues have a wrong count",
    "UPDATE store SET next_seq = 5": "1 counters are behind",
    "DELETE FROM store": "1 counters are behind",
}


@pytest.mark.parametrize(("harm", "finding"), CONTRADICTIONS.items(), ids=range(len(CONTRADICTIONS)))
def test_what_contradicts_itself_is_found_and_mended(store: Location, harm: str, finding: str) -> None:
    with closing(opened(store)) as database:
        database.execute(harm)
        left = database.execute("SELECT count(*) FROM message").fetchall()[0][0]
    found = checkup.check(store)
    assert not found.whole
    assert any(finding in line for line in found.contradictions), found.contradictions
    done = checkup.repair(store, "lost and found")
    assert (done.before.contradictions, done.after.whole, done.damaged) == (found.contradictions, True, None)
    assert taken(store) == left


def pages(where: Location) -> list[tuple[int, str, str, int]]:
    """Page, table, type and number of cells, of all but the first page, which says that it is a database."""
    with closing(opened(where)) as database:
        query = "SELECT pageno, name, pagetype, ncell FROM dbstat WHERE pageno > 1"
        return [(int(a), str(b), str(c), int(d)) for a, b, c, d in database.execute(query)]  # type: ignore[arg-type]


def test_of_a_damaged_file_everything_is_saved_but_what_the_damaged_page_held(store: Location) -> None:
    whole = store.database.read_bytes()
    for page, table, kind, cells in pages(store):
        harmed = bytearray(whole)
        harmed[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
        store.database.write_bytes(harmed)
        assert not checkup.check(store).whole, (page, table)
        done = checkup.repair(store, "lost and found")
        assert done.after.whole, (page, table, done)
        assert done.damaged is not None
        assert done.damaged.read_bytes() == harmed
        done.damaged.unlink()
        lost = ALL - taken(store)
        if (table, kind) == ("message", "leaf"):
            assert 0 < lost <= cells, (page, lost)
        elif table != "message":
            assert lost == 0, (page, table, kind, lost)
        for leftover in store.folder.glob("bus.db-*"):
            leftover.unlink()
        store.database.write_bytes(whole)


def test_who_has_a_damaged_store_open_goes_on_with_the_repaired_one(home: Home) -> None:
    with Bench(f"filesystem://{home.path}/bus", home) as bench:
        where = Location(home.path / "bus", "full")
        channel: Any = bench.kombu().channel()
        channel.queue_declare("work", auto_delete=False)
        channel.basic_publish(AmqpMessage("before"), "", "work")
        with closing(opened(where)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        (page,) = (page for page, table, kind, _ in pages(where) if (table, kind) == ("binding", "leaf"))
        with where.database.open("r+b") as file:
            file.seek((page - 1) * 4096)
            file.write(b"\xa5" * 4096)
        done = checkup.repair(where, "lost and found")
        assert (done.before.whole, done.after.whole) == (False, True)
        channel.basic_publish(AmqpMessage("after"), "", "work")
        assert bodies(bench, "work") == ["before", "after"]


def bodies(bench: Bench, queue: str) -> list[str]:
    channel: Any = bench.kombu().channel()
    return [raw.body.decode() for raw in channel.browse(queue)]


def test_there_must_be_a_store_to_check(home: Home) -> None:
    where = Location(home.path / "nothing", "full")
    with pytest.raises(BrokerUnavailable, match="there is no store"):
        checkup.check(where)
    assert not where.folder.exists()
