"""The kernel's OOM killer, struck for real in a control group of the test's own."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from busworker.supervisor.memory import OomKills
from tests.support import Stage, wait_until

APP = """
from busworker import Bus, RetryPolicy, Topic
bus = Bus("hog")
eaten = Topic("eaten", int)

@bus.channel("eaten").subscribe(eaten, retry=RetryPolicy(1))
def eat(size):
    kept = [b"x" * 1_000_000 for _ in range(size)]
"""
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
LIMIT = 250_000_000


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group whose members may take `LIMIT` bytes together."""
    root = next((root for root in (V1, V2) if (root / "cgroup.procs").exists() and os.access(root, os.W_OK)), None)
    if root is None:
        pytest.skip("NO CONTROL GROUP CAN BE MADE HERE: the OOM killer isn't tried")
    path = root / f"busworker-test-{os.getpid()}"
    try:
        path.mkdir()
        (path / ("memory.limit_in_bytes" if root == V1 else "memory.max")).write_text(str(LIMIT))
    except OSError as error:
        with contextlib.suppress(OSError):
            path.rmdir()
        pytest.skip(f"NO CONTROL GROUP CAN BE MADE HERE ({error}): the OOM killer isn't tried")
    try:
        yield path
    finally:
        wait_until(lambda: not (path / "cgroup.procs").read_text(), 10, "an empty control group")
        path.rmdir()


@contextlib.contextmanager
def member_of(group: Path) -> Iterator[None]:
    """What is started within is a member of the group."""
    mine = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    name = next(path for _, names, path in mine if ("memory" in names.split(",")) == (group.parent == V1))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (group.parent / name.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))


def test_the_dead_letter_says_that_it_was_probably_the_oom_killer(stage: Stage, group: Path) -> None:
    stage.home.write("hog.py", APP)
    with member_of(group):
        service = stage.start("hog")
    stage.publish("eaten", 1000)
    (letter,) = wait_until(stage.dead, 30, lambda: service.stderr)
    assert (letter["reason"], letter["worker"]["signal"]) == ("crash", "SIGKILL")
    assert "the kernel's OOM killer has just ended a process here" in letter["error"]["message"]
    assert service.terminate() == 0


def test_a_kill_is_told_once(tmp_path: Path) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom 3\noom_kill 2\n")
    kills = OomKills(counter)
    assert not kills.took_one()
    counter.write_text("low 0\noom 4\noom_kill 4\n")
    assert [kills.took_one() for _ in range(3)] == [True, True, False]
    counter.unlink()
    assert not kills.took_one()
