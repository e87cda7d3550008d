"""What our processes do again and again leaves no memory behind."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from busworker import procfs
from busworker.transports.engine import upkeep
from busworker.transports.engine.database import CACHE_KIB, Database
from busworker.transports.engine.location import Location, parse
from busworker.transports.engine.records import Batch, Outgoing
from busworker.transports.engine.space import Space
from busworker.transports.engine.store import Store

BACKLOG = 12_000
REST_KIB = 700
"""What else a store's process takes for its first batches."""
FILL = """
import sys
from pathlib import Path

from busworker.transports.engine.location import parse
from busworker.transports.engine.records import Batch, Outgoing
from busworker.transports.engine.store import Store

store = Store(parse(f"filesystem://{sys.argv[1]}?durability=normal"))
store.declare_queue("work", {})
batch = Batch([Outgoing("", "work", b"", b"x" * 200)] * 100)


def anonymous():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return int(dict(line.split(":", 1) for line in lines)["Anonymous"].split()[0])


before = anonymous()
for _ in range(int(sys.argv[2]) // 100):
    store.apply(batch)
print(anonymous() - before)
store.close()
"""


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return parse(f"filesystem://{tmp_path}/bus?durability=normal")


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    store = Store(location)
    store.declare_queue("work", {})
    yield store
    store.close()


@pytest.fixture
def interned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Python code interns.

    The table of interned strings keeps a place for each that is gone again. It grows by 0.5 MiB and more at a time, and
    meanwhile there are two of them. pathlib interns the parts of every path that it makes.
    """
    found: list[str] = []
    intern = sys.intern

    def interning(string: str) -> str:
        found.append(string)
        return intern(string)

    monkeypatch.setattr(sys, "intern", interning)
    return found


def test_messages_intern_nothing(store: Store, interned: list[str]) -> None:
    store.listen("work")
    for _ in range(3):
        store.apply(Batch([Outgoing("", "work", b"", b"x")]))
        store.wait(0)
        (claimed,) = store.claim([("work", 1)], 1)
        interned.clear()
        store.apply(Batch([Outgoing("", "work", b"", b"x")], acknowledged=[claimed.seq]))
        store.wait(0)
        (claimed,) = store.claim([("work", 1)], 1)
        store.apply(Batch(acknowledged=[claimed.seq]))
    assert interned == []


def test_looks_for_the_dead_intern_nothing(location: Location, store: Store, interned: list[str]) -> None:
    store.listen("work")
    store.claim([("work", 1)], 1)
    database = Database(location, Space(location.folder, memory=False))
    database.read("SELECT 1")
    interned.clear()
    assert upkeep.deaf(database, location.folder) == upkeep.abandoned(database, location.folder, None) == []
    assert upkeep.abandoned(database, location.folder, ["work"]) == []
    assert interned == []
    database.close()


def test_looks_at_processes_intern_nothing(interned: list[str]) -> None:
    assert procfs.look(os.getpid()) is not None
    assert os.getpid() not in procfs.children()
    assert procfs.signals(os.getpid()) is not None
    assert procfs.holds(os.getpid(), procfs.opened(os.getpid(), 0))
    assert interned == []


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has is read from /proc/self/smaps_rollup")
def test_a_backlog_fills_no_more_memory_than_the_cache_may_take(tmp_path: Path) -> None:
    program = [sys.executable, "-c", FILL, str(tmp_path / "bus"), str(BACKLOG)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < CACHE_KIB + REST_KIB
