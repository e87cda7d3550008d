"""The embedded engine alone: many processes, what is stored and routed, and kombu programs that know nothing of us."""

import os
import select
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from busworker.broker.session import Counts, Session, open_session
from busworker.errors import BrokerUnavailable, ConfigurationError
from tests.contract.bench import PATIENCE, Bench, ack, event, events, fetched, ids
from tests.support import Home, wait_until
from tests.support.embedded import embedded_url

BOTH = """
import select, sys
from pathlib import Path
from busworker.broker.session import Settled, open_session
from tests.contract.bench import event
url, queue, name, count, folder = sys.argv[1:]
session = open_session(url)
session.consume(queue, 50)
waiting = [event(message_id=f"{name}-{number}") for number in range(int(count))]
handled = []
done = Path(folder)
while True:
    session.publish(waiting[:20])
    del waiting[:20]
    if not waiting:
        (done / name).touch()
    found = session.fetch(50)
    session.settle([Settled(delivery.tag, "ack") for delivery in found])
    handled += [delivery.properties["message_id"] for delivery in found]
    if not found and len(list(done.iterdir())) == 4:
        counts = session.counts(queue)
        if (counts.ready, counts.in_flight) == (0, 0):
            break
        select.select(session.filenos(), [], [], min(session.next_due(), 0.05))
session.close()
print(*handled, flush=True)
"""
PUBLISHING = """
import sys
from busworker.broker.session import open_session
from tests.contract.bench import event
session = open_session(sys.argv[1])
session.declare()
sys.stdin.readline()
session.publish([event(message_id="woken")])
print("published", flush=True)
sys.stdin.read()
"""
HOLDING = """
import fcntl, os, sys
from busworker.broker.session import open_session
lock = os.open(sys.argv[3], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
session = open_session(sys.argv[1], claim_file=sys.argv[3])
session.consume(sys.argv[2], 10)
print(len(session.fetch(10)), flush=True)
sys.stdin.read()
"""
WRITERS = """
import os, random, signal, sys
from busworker.broker.session import open_session
from tests.contract.bench import event

def write(fd, life):
    session = open_session(sys.argv[1])
    number = 0
    while True:
        names = [f"{life}-{number + one}" for one in range(random.randrange(1, 20))]
        session.publish([event(message_id=name, body=b"x" * random.randrange(9000)) for name in names])
        number += len(names)
        os.write(fd, f"{names[-1]}\\n".encode())

for life in range(int(sys.argv[2])):
    read, wrote = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        write(wrote, life)
    os.close(wrote)
    lines = os.fdopen(read)
    confirmed = [lines.readline() for _ in range(random.randrange(1, 12))]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    confirmed += lines.readlines()
    lines.close()
    print(confirmed[-1].strip(), flush=True)
"""
OPENING = """
import os, sys
from busworker.broker.session import open_session
from busworker.errors import BusworkerError
if os.getuid() == 0:
    # What root may write says nothing. First everything is imported: the interpreter's files may be root's alone.
    open_session(sys.argv[2]).close()
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    session = open_session(sys.argv[1])
    session.declare()
except BusworkerError as error:
    print(type(error).__name__, error, flush=True)
else:
    print("opened", flush=True)
"""


@pytest.fixture
def session(engine: Bench) -> Session:
    return engine.session()


@pytest.fixture
def work(session: Session) -> str:
    return session.declare_work("user.registered", "email", "welcome")


@pytest.fixture
def memory(home: Home) -> Iterator[Bench]:
    """A bus in memory."""
    with embedded_url("memory", home) as url, Bench(url, home) as bench:
        yield bench


def line(process: Any) -> str:
    return process.stdout.readline().strip()


# Many processes


def test_four_processes_publish_and_claim_at_once_and_each_message_is_handled_once(
    engine: Bench, session: Session, work: str
) -> None:
    done = engine.home.path / "done"
    done.mkdir()
    processes = [engine.start(BOTH, work, name, "500", str(done)) for name in "abcd"]
    handled = Counter(name for process in processes for name in line(process).split())
    assert handled == Counter(f"{name}-{number}" for name in "abcd" for number in range(500))
    assert [process.wait(PATIENCE) for process in processes] == [0] * 4
    assert session.counts(work) == Counts(0, 0)


def test_claims_of_a_killed_process_come_to_the_next_with_its_claim_file_at_once_and_in_order(
    engine: Bench, session: Session, work: str
) -> None:
    session.publish(events(5))
    board = engine.home.path / "board"
    holder = engine.start(HOLDING, work, str(board))
    assert line(holder) == "5"
    assert session.counts(work) == Counts(0, 5)
    assert session.abandoned([work]) == []
    holder.kill()
    holder.wait()
    assert session.counts(work) == Counts(0, 5), "a claim file of ours is given back by its next holder only"
    consumer = engine.consumer(work, claim_file=str(board))
    back = consumer.fetch(10)
    assert ids(back) == ["m0", "m1", "m2", "m3", "m4"]
    assert {delivery.redelivered for delivery in back} == {True}


def test_claims_of_a_dead_pool_are_found_and_released_by_another(engine: Bench, session: Session, work: str) -> None:
    session.publish(events(3))
    board = engine.home.path / "board"
    holder = engine.start(HOLDING, work, str(board))
    assert line(holder) == "3"
    holder.kill()
    holder.wait()
    assert session.abandoned([work]) == [str(board)]
    session.release(str(board))
    assert session.abandoned([work]) == []
    assert ids(engine.consumer(work).fetch(10)) == ["m0", "m1", "m2"]


def test_a_publish_of_another_process_wakes_a_waiting_consumer(engine: Bench, session: Session, work: str) -> None:
    publishing = engine.start(PUBLISHING)
    consumer = engine.consumer(work)
    assert publishing.stdin is not None
    assert consumer.fetch(10) == []
    assert select.select(consumer.filenos(), [], [], 0)[0] == []
    publishing.stdin.write("\n")
    publishing.stdin.flush()
    assert line(publishing) == "published"
    # The wake-up is sent before the publish returns; nothing here waits for the look that is taken each second.
    assert select.select(consumer.filenos(), [], [], 0.2)[0] == list(consumer.filenos())
    assert ids(consumer.fetch(10)) == ["woken"]


def test_a_consumer_knows_when_the_next_message_is_due(engine: Bench, session: Session, work: str) -> None:
    consumer = engine.consumer(work)
    assert consumer.fetch(1) == []
    assert 0.5 < consumer.next_due() <= 1
    session.publish([event(expiration="200")])
    consumer.fetch(0)
    assert consumer.next_due() <= 0.2


def test_a_store_is_whole_after_writers_were_killed_again_and_again(home: Home) -> None:
    with Bench(f"filesystem://{home.path}/bus", home) as bench:
        session = bench.session()
        work = session.declare_work("#", "email", "welcome")
        writers = bench.start(WRITERS, "12")
        confirmed = [line(writers) for _ in range(12)]
        assert writers.wait(PATIENCE) == 0
        stored = set(ids(list(session.browse(work))))
        for last in confirmed:
            life, _, number = last.partition("-")
            assert {f"{life}-{one}" for one in range(int(number) + 1)} <= stored
        assert session.counts(work) == Counts(len(stored), 0)
        with closing(apsw.Connection(str(home.path / "bus" / "bus.db"))) as store:
            assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# What is stored


def test_topology_and_messages_survive_a_reopening(home: Home) -> None:
    with Bench(f"filesystem://{home.path}/bus", home) as bench:
        session = bench.session()
        work = session.declare_work("user.*", "email", "welcome")
        session.publish([event(message_id="early")])
        session.close()
        again = open_session(bench.url)
        again.publish([event(message_id="late")])
        assert ids(list(again.browse(work))) == ["late", "early"]
        again.close()


# A bus in memory


def test_a_bus_in_memory_is_kept_while_somebody_uses_it_and_wiped_after(memory: Bench) -> None:
    first, second = memory.session(), memory.session()
    work = first.declare_work("user.registered", "email", "welcome")
    first.publish(events(2))
    first.close()
    third = memory.session()
    second.close()
    assert third.counts(work) == Counts(2, 0)
    third.close()
    assert memory.session().counts(work) is None


def test_a_bus_in_memory_is_wiped_after_its_last_user_was_killed(memory: Bench) -> None:
    holder = memory.start(PUBLISHING)
    assert holder.stdin is not None
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert line(holder) == "published"
    kept = memory.session()
    assert kept.counts("busworker.unrouted") == Counts(1, 0)
    kept.close()
    holder.kill()
    holder.wait()
    assert memory.session().counts("busworker.unrouted") == Counts(0, 0)


def test_buses_in_memory_of_different_names_share_nothing(memory: Bench, home: Home) -> None:
    memory.session().publish(events(1))
    with embedded_url("memory", home) as url, Bench(url, home) as other:
        assert other.session().counts("busworker.unrouted") == Counts(0, 0)


# What can't be used


def opening(bench: Bench) -> subprocess.Popen[str]:
    """A process that opens the store as a user who isn't root, and tells how that went."""
    return bench.start(OPENING, f"filesystem://{bench.home.path}/other")


def test_a_folder_that_can_not_be_written_is_a_clear_error(home: Home) -> None:
    folder = home.path / "bus"
    folder.mkdir(mode=0o555)
    home.path.chmod(0o755)
    with Bench(f"filesystem://{folder}", home) as bench:
        process = opening(bench)
        kind, _, text = line(process).partition(" ")
    assert kind == "BrokerUnavailable"
    assert str(folder) in text
    assert "owner" in text
    assert "mode" in text


def test_a_store_whose_files_became_read_only_is_a_clear_error_and_recovers(home: Home) -> None:
    folder = home.path / "bus"
    with Bench(f"filesystem://{folder}", home) as bench:
        bench.session().close()
        home.path.chmod(0o755)
        folder.chmod(0o777)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        process = opening(bench)
        kind, _, text = line(process).partition(" ")
        assert (kind, str(folder) in text) == ("BrokerUnavailable", True)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        assert line(opening(bench)) == "opened"


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" + os.urandom(4096)])
def test_a_file_that_is_no_database_is_a_clear_error_and_left_alone(home: Home, content: bytes) -> None:
    folder = home.path / "bus"
    folder.mkdir()
    (folder / "bus.db").write_bytes(content)
    with Bench(f"filesystem://{folder}", home) as bench, pytest.raises(BrokerUnavailable, match=str(folder)) as caught:
        bench.session()
    assert "\n" not in str(caught.value)
    assert (folder / "bus.db").read_bytes() == content


def test_a_database_of_another_program_is_a_clear_error_and_left_alone(home: Home) -> None:
    folder = home.path / "bus"
    folder.mkdir()
    with closing(apsw.Connection(str(folder / "bus.db"))) as foreign:
        foreign.execute("CREATE TABLE theirs(x); INSERT INTO theirs VALUES (1)")
    with Bench(f"filesystem://{folder}", home) as bench, pytest.raises(BrokerUnavailable, match="another folder"):
        bench.session()
    with closing(apsw.Connection(str(folder / "bus.db"))) as foreign:
        assert foreign.execute("SELECT * FROM theirs").fetchall() == [(1,)]


@pytest.mark.parametrize(
    "url", ["filesystem://relative/path", "filesystem:///bus?durability=none", "memory://a/b", "memory://a?x=1"]
)
def test_a_wrong_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="broker"):
        open_session(url)


def test_a_store_that_was_removed_is_made_anew(home: Home) -> None:
    with Bench(f"filesystem://{home.path}/bus", home) as bench:
        session = bench.session()
        for path in Path(home.path / "bus").glob("bus.db*"):
            path.unlink()
        with pytest.raises(BrokerUnavailable):
            session.publish(events(1))
        session.declare()
        session.publish(events(1))
        assert session.counts("busworker.unrouted") == Counts(1, 0)


def test_space_of_settled_messages_goes_back_to_the_disk_while_a_consumer_waits(home: Home) -> None:
    file = home.path / "bus" / "bus.db"
    with Bench(f"filesystem://{home.path}/bus", home) as bench:
        queue = bench.session().declare_work("user.registered", "email", "welcome")
        for _ in range(10):
            bench.session().publish([event(body=b"x" * 10_000) for _ in range(100)])
        first = bench.consumer(queue)
        for _ in range(10):
            first.settle([ack(delivery) for delivery in fetched(first, 100)])
        assert file.stat().st_size > 8_000_000
        # A new one looks for space to give back as soon as it waits.
        waiting = bench.kombu()
        channel: Any = waiting.channel()
        channel.basic_consume(queue)

        def shrunk() -> bool:
            with pytest.raises(TimeoutError):
                waiting.drain_events(timeout=0.01)
            return file.stat().st_size < 2_000_000

        wait_until(shrunk, PATIENCE, "the file given back")
        waiting.release()
        bench.session().publish(events(1))
        assert len(fetched(first, 1)) == 1
