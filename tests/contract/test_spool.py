"""What a publisher keeps on disk while its broker can't take it: in order, over processes, and sent once it can."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from busworker import Bus, Topic
from busworker.broker import topology
from busworker.broker.session import Session, open_session
from busworker.errors import BrokerUnavailable, PublishFailed
from busworker.message import Outgoing
from busworker.spool import Spool
from tests.contract.bench import PATIENCE, Bench, queued, wait_ready
from tests.support import Home, wait_until
from tests.support.proxy import Proxy

UNREACHABLE = "amqp://127.0.0.1:1"
numbers = Topic("user.registered", int)
KEEPING = """
import os, signal, sys
from busworker import Bus, Topic
bus = Bus("signup", broker=sys.argv[1], spool=sys.argv[2], publish_deadline=20)
for number in range(int(sys.argv[3]), int(sys.argv[4])):
    receipt = bus.publish(Topic("user.registered", int), number)
receipt.wait()
print(receipt.spooled, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broker and spool are those that the test names."""
    monkeypatch.delenv("BUSWORKER_BROKER", raising=False)


@pytest.fixture
def folder(home: Home) -> Path:
    return home.path / "spool"


@pytest.fixture
def bench(amqp_url: str, home: Home) -> Iterator[Bench]:
    with Bench(amqp_url, home) as bench:
        yield bench


@pytest.fixture
def proxy(amqp_url: str) -> Iterator[Proxy]:
    with Proxy(amqp_url) as proxy:
        yield proxy


def kept(folder: Path) -> int:
    spool = Spool(folder)
    try:
        return spool.count()
    finally:
        spool.close()


def events(session: Session, work: str, count: int) -> list[int]:
    """What is in the queue, in its order, once there are so many."""
    return [int(delivery.body) for delivery in queued(session, work, count)]


def keeping(home: Home, broker: str, folder: Path, first: int, end: int) -> subprocess.CompletedProcess[str]:
    """A process publishes these numbers, and is killed once they are confirmed."""
    args = [sys.executable, "-c", KEEPING, broker, str(folder), str(first), str(end)]
    return subprocess.run(args, env=home.env, cwd=home.path, capture_output=True, text=True, timeout=60, check=False)


def test_what_a_frozen_broker_does_not_take_is_kept_and_sent_in_its_order(
    bench: Bench, session: Session, work: str, proxy: Proxy, folder: Path
) -> None:
    bus = Bus("signup", broker=proxy.url, spool=folder, publish_deadline=20)
    assert not bus.publish(numbers, 0).wait(PATIENCE).spooled
    assert not folder.exists(), "it is made when it is needed"
    proxy.freeze()
    began = time.monotonic()
    receipts = bus.publish_many(numbers, range(1, 100)).wait(PATIENCE)
    later = bus.publish_many(numbers, range(100, 200)).wait(PATIENCE)
    assert time.monotonic() - began < 5.0
    assert all(receipt.spooled for receipt in (*receipts, *later))
    proxy.thaw()
    bus.publish(numbers, 200).wait(PATIENCE)
    wait_until(lambda: kept(folder) == 0, PATIENCE, lambda: f"an empty spool; {kept(folder)}")
    assert not bus.publish(numbers, 201).wait(PATIENCE).spooled
    bus.close()
    # What the frozen broker was sent it may have stored, and gets once more.
    seen = events(session, work, session.counts(work).ready)  # type: ignore[union-attr]
    assert list(dict.fromkeys(seen)) == list(range(202))
    assert len(seen) <= 202 + 99


def test_what_killed_processes_have_kept_the_next_one_sends_before_its_own(
    bench: Bench, session: Session, work: str, home: Home, folder: Path
) -> None:
    for first in (0, 50):
        done = keeping(home, UNREACHABLE, folder, first, first + 50)
        assert (done.stdout, done.returncode) == ("True\n", -9), done.stderr
    assert kept(folder) == 100
    bus = Bus("signup", broker=bench.url, spool=folder)
    bus.publish(numbers, 100).wait(PATIENCE)
    wait_ready(session, work, 101)
    bus.close()
    assert events(session, work, 101) == list(range(101))
    assert kept(folder) == 0


def test_processes_that_share_a_spool_send_each_message_once(
    bench: Bench, session: Session, work: str, folder: Path, home: Home
) -> None:
    assert keeping(home, UNREACHABLE, folder, 0, 3000).stdout == "True\n"
    buses = [Bus("signup", broker=bench.url, spool=folder) for _ in range(3)]
    for number, bus in enumerate(buses, 3000):
        bus.publish(numbers, number).wait(PATIENCE)
    wait_ready(session, work, 3003)
    for bus in buses:
        bus.close()
    seen = events(session, work, 3003)
    assert seen[:3000] == list(range(3000))
    assert sorted(seen) == list(range(3003))


def test_a_bus_whose_store_can_not_be_used_has_its_messages_kept(home: Home, folder: Path) -> None:
    obstacle = home.write("bus", "a file where the folder should be")
    bus = Bus("signup", broker=f"filesystem://{obstacle}", spool=folder)
    assert bus.publish(numbers, 1).wait(PATIENCE).spooled
    obstacle.unlink()
    wait_until(lambda: kept(folder) == 0, PATIENCE, "it is sent, though nothing more is published")
    session = open_session(f"filesystem://{obstacle}")
    assert [delivery.body for delivery in session.browse(topology.UNROUTED)] == [b"1"]
    session.close()
    bus.close()


def test_what_can_not_be_kept_either_fails_at_its_deadline(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    nowhere = home.write("file", "") / "spool"
    bus = Bus("signup", broker=UNREACHABLE, spool=nowhere, publish_deadline=2.0)
    receipt = bus.publish(numbers, 1)
    began = time.monotonic()
    with pytest.raises(PublishFailed, match="refused"):
        receipt.wait(PATIENCE)
    assert 1.5 < time.monotonic() - began < 3.0
    assert (receipt.state, receipt.spooled) == ("failed", False)
    assert caplog.text.count("nothing can be kept in") == 1
    bus.close()


def test_a_full_spool_takes_no_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busworker.spool.MOST", 3)
    spool = Spool(folder)
    one = Outgoing("busworker", "user.registered", b"1", {}, {})
    spool.put([one, one])
    with pytest.raises(BrokerUnavailable, match="is full"):
        spool.put([one, one])
    assert spool.count() == 2
    spool.close()


def test_a_message_of_a_spool_that_nobody_can_read_is_set_aside_and_the_rest_is_sent(
    bench: Bench, session: Session, work: str, home: Home, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert keeping(home, UNREACHABLE, folder, 0, 2).stdout == "True\n"
    store = open_session(f"filesystem://{folder}")
    store.publish([Outgoing("", topology.SPOOL, b"\xc1 of another version", {}, {})])
    bus = Bus("signup", broker=bench.url, spool=folder)
    bus.publish(numbers, 2).wait(PATIENCE)
    wait_ready(session, work, 3)
    bus.close()
    assert events(session, work, 3) == [0, 1, 2]
    assert [delivery.body for delivery in store.browse(topology.SPOOL_ASIDE)] == [b"\xc1 of another version"]
    store.close()
    assert "set aside" in caplog.text


def test_a_delay_counts_from_the_publish_and_not_from_the_sending(
    bench: Bench, session: Session, work: str, folder: Path
) -> None:
    spool = Spool(folder)
    spool.put([Outgoing("busworker", "user.registered", b"1", {}, {}, 0.2)])
    time.sleep(0.3)  # the delay itself
    told: list[float | None] = []
    spool.relay(lambda outgoing: [told.append(one.delay) for one in outgoing] and [None])
    spool.close()
    assert told == [0.0]


def test_a_spool_that_was_removed_is_made_anew(home: Home, folder: Path) -> None:
    obstacle = home.write("bus", "a file where the folder should be")
    bus = Bus("signup", broker=f"filesystem://{obstacle}", spool=folder)
    assert bus.publish(numbers, 1).wait(PATIENCE).spooled
    for number in (2, 3):
        folder.rename(folder.with_name(f"removed-{number}"))  # at once, whatever is written there just now
        assert bus.publish(numbers, number).wait(PATIENCE).spooled
        assert kept(folder) == 1
    obstacle.unlink()
    wait_until(lambda: kept(folder) == 0, PATIENCE, "it is sent from there")
    bus.close()
