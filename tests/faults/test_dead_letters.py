"""Dead letters on RabbitMQ: commands that are killed, and many letters. Quorum and classic queues."""

import itertools
import random
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing
from types import FrameType
from typing import Any

import pytest

from busworker import copies, deadletters
from busworker.broker import topology
from busworker.broker.session import Session, open_session
from busworker.letters import Filter
from busworker.message import Delivery, Outgoing, read_envelope
from busworker.outcome import Error, WorkerInfo
from busworker.pace import Pace
from busworker.uninterrupted import interrupt
from tests.support import Command, Home, wait_until
from tests.support.command import executable
from tests.support.proxy import Proxy

SELECTOR = "user.registered/email.welcome"
WORK = topology.work_queue("user.registered", "email", "welcome")
DEAD = topology.dead_queue(WORK)
KILLS = 2
INTERRUPTIONS = 12
ALL = Filter()


@pytest.fixture(params=["quorum", "classic"])
def url(request: pytest.FixtureRequest, amqp_url: str) -> str:
    return f"{amqp_url}?queue_type={request.param}"


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    with Proxy(url) as proxy:
        yield proxy


@pytest.fixture
def session(url: str) -> Iterator[Session]:
    session = open_session(url)
    session.declare()
    session.declare_work("user.registered", "email", "welcome")
    yield session
    session.close()


def bury(session: Session, number: int, name: str = "m") -> list[str]:
    """Leaves dead letters as a consumer does; returns their ids."""
    names = [f"{name}{one}" for one in range(number)]
    number += ready(session, DEAD)
    session.publish([_letter(name) for name in names])
    wait_until(lambda: ready(session, DEAD) == number, 20, lambda: f"{number} in {DEAD}: {session.counts(DEAD)}")
    return names


def _letter(name: str) -> Outgoing:
    message = Delivery(1, WORK, "user.registered", False, {"message_id": name}, {}, b'{"user_id": 42}')
    error = Error("ValueError", "no such user", "Traceback (most recent call last):\n  …\n" * 10)
    letter = copies.Letter("exception", 3, "2026-01-01T00:00:00.000Z", error, WorkerInfo("host", 42))
    return copies.dead_copy(message, read_envelope(message), letter, topology.dead_target(WORK))


def ready(session: Session, queue: str) -> int:
    counts = session.counts(queue)
    assert counts is not None
    return counts.ready


def in_queue(session: Session, queue: str) -> list[Any]:
    return [delivery.properties["message_id"] for delivery in session.browse(queue)]


def test_a_replay_that_is_killed_at_any_moment_loses_nothing(
    url: str, session: Session, proxy: Proxy, command: Command
) -> None:
    names = bury(session, 500)
    proxy.delay(up=0.003, down=0.003)  # else it is done before we look
    for _ in range(KILLS):
        so_far = ready(session, WORK) + random.randrange(deadletters.BATCH)
        replaying = command.start("dead", "replay", SELECTOR, "--broker", proxy.url)
        wait_until(lambda so_far=so_far: ready(session, WORK) > so_far, 20, "a replay gets on")
        replaying.kill()
        assert replaying.exit_code == -signal.SIGKILL
    wait_until(lambda: ready(session, DEAD) > 0, 20, "what a replay held comes back")
    deadletters.replay(session, [DEAD], ALL, None, time.time)
    assert in_queue(session, DEAD) == []
    found = Counter(in_queue(session, WORK))
    assert set(found) == set(names)
    assert found.total() - len(names) <= KILLS * deadletters.BATCH, "a kill repeats one batch at most"


def test_a_replay_that_is_ended_by_term_repeats_nothing(url: str, session: Session, command: Command) -> None:
    names = bury(session, 150)
    replaying = command.start("dead", "replay", SELECTOR, "--rate", "100", "--broker", url)
    wait_until(lambda: ready(session, WORK) > 20, 20, "a replay gets on")
    assert replaying.terminate() == 128 + signal.SIGTERM
    done = ready(session, WORK)
    assert replaying.stdout == f"replayed {done}\n"
    assert 20 < done < len(names)
    assert deadletters.replay(session, [DEAD], ALL, None, time.time) == len(names) - done
    assert in_queue(session, WORK) == names


def test_a_slow_replay_looks_anew_and_takes_only_what_was_there(
    url: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadletters, "HOLD", 0.05)
    names = bury(session, 40)
    dying = iter(["new", "newer"])

    def clock() -> float:
        session.publish([_letter(name) for name in dying])
        return time.time()

    assert deadletters.replay(session, [DEAD], ALL, 35, clock, Pace(100)) == 35
    assert in_queue(session, WORK) == names[:35]
    assert in_queue(session, DEAD) == [*names[35:], "new", "newer"]
    assert deadletters.replay(session, [DEAD], Filter(frozenset({"m39", "newer"})), None, clock, Pace(10)) == 2
    assert in_queue(session, DEAD) == [*names[35:39], "new"]


def test_a_list_that_is_killed_loses_nothing_and_one_that_is_ended_by_term_no_order(
    url: str, session: Session, home: Home
) -> None:
    names = bury(session, 300)
    assert in_queue(session, DEAD) == names, "what was looked at before is what may be turned"

    def ended(number: int) -> int:
        args = [executable(), "dead", "list", "--limit", "0", "--json", SELECTOR, "--broker", url]
        with subprocess.Popen(args, env=home.env, cwd=home.path, stdout=subprocess.PIPE) as listing:
            assert listing.stdout is not None
            listing.stdout.read1()  # in the middle now: more than a pipe holds is to come
            listing.send_signal(number)
            listing.stdout.read()
        return listing.returncode

    assert ended(signal.SIGTERM) == 128 + signal.SIGTERM
    assert in_queue(session, DEAD) == names
    assert ended(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: ready(session, DEAD) == len(names), 20, "all is back")
    assert sorted(in_queue(session, DEAD)) == sorted(names)


@pytest.mark.parametrize("url", ["quorum"], indirect=True)
def test_looks_that_are_interrupted_at_any_line_leave_the_order(url: str, session: Session) -> None:
    names = bury(session, 200)
    lines = itertools.count()
    assert not looked(session, lambda: next(lines)), "what was looked at before is what may be turned"
    for moment in random.sample(range(next(lines) // 2), INTERRUPTIONS):
        passed = itertools.count()
        assert looked(session, lambda passed=passed, moment=moment: next(passed) == moment and end())
    assert in_queue(session, DEAD) == names


def end() -> None:
    """What the handler of a signal does."""
    interrupt(KeyboardInterrupt())


def looked(session: Session, meanwhile: Callable[[], object]) -> bool:
    """Looks at all dead letters, and calls that at each line of what reads and writes; whether it was interrupted."""

    def look() -> None:
        with closing(session.browse(DEAD)) as looking:
            deque(looking, maxlen=0)

    return interrupted(look, meanwhile)


def interrupted(act: Callable[[], object], meanwhile: Callable[[], object]) -> bool:
    """Acts, and calls that at each line of what reads, writes and settles; whether it was interrupted."""

    def trace(frame: FrameType, *_: object) -> Any:
        if any(part in frame.f_code.co_filename for part in ("transports/amqp", "broker/browsing", "/deadletters")):
            meanwhile()
            return trace
        return None

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        act()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("url", ["quorum"], indirect=True)
def test_replays_that_are_interrupted_at_any_line_take_each_letter_once(url: str, session: Session) -> None:
    pace = Pace()
    pace.size = 10

    def replayed(meanwhile: Callable[[], object]) -> bool:
        with closing(open_session(url)) as ours:  # as each command has its own
            return interrupted(lambda: deadletters.replay(ours, [DEAD], ALL, None, time.time, pace), meanwhile)

    lines = itertools.count()
    names = bury(session, 40)
    assert not replayed(lambda: next(lines))
    for moment in random.sample(range(next(lines)), 8):
        names += bury(session, 40, f"{moment}-")
        passed = itertools.count()
        assert replayed(lambda passed=passed, moment=moment: next(passed) == moment and end())
        assert pace.done == ready(session, WORK)
    assert not replayed(lambda: None)
    assert in_queue(session, WORK) == names


def test_many_letters_are_listed_replayed_and_dropped_in_their_order(url: str, session: Session) -> None:
    names = bury(session, 600)

    def listed(limit: int | None, wanted: Filter = ALL) -> list[str | None]:
        return [one.id for one in deadletters.listed(session, [DEAD], wanted, limit, newest_first=False)]

    for limit in (100, None, 7, 100):
        assert listed(limit) == names[:limit]
    assert listed(None, Filter(frozenset({"m450"}))) == ["m450"]
    assert deadletters.replay(session, [DEAD], Filter(frozenset({"m450"})), None, time.time) == 1
    assert deadletters.drop(session, [DEAD], ALL, 200) == 200
    left = [name for name in names[200:] if name != "m450"]
    assert in_queue(session, DEAD) == left
    assert deadletters.replay(session, [DEAD], ALL, None, time.time) == 399
    assert in_queue(session, WORK) == ["m450", *left]
    assert ready(session, DEAD) == 0
