"""What a process may be doing with an embedded store when it is killed, and all that may be found there afterwards.

Run as `python -m tests.faults.store_scenarios NAME FOLDER [lines]`: the process forks, so it has no threads.
"""

import gc
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import kombu
from amqp.basic_message import Message as AmqpMessage
from amqp.exceptions import NotFound

from busworker.transports import transport
from busworker.transports.engine import checkup, upkeep
from busworker.transports.engine.database import Database
from busworker.transports.engine.location import Location
from busworker.transports.engine.space import Space
from tests.support.killing import Arm, answer_of, killed_before
from tests.support.whole import consistent, copy

State = dict[str, list[str]]
"""The bodies in each queue, a star after those marked as redelivered; "claimed" if any is; the routes of `a.b`."""

AT_ONCE = 2.0
"""Seconds in which the next process has to have published and consumed: less than anybody's patience with a lock."""

OLD = Path(__file__).parents[1] / "contract" / "store_v1.sql"
HOUR = 3_600_000


class Bus:
    """A store, and a foreign kombu program's ways with it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "bus"
        self.board = str(home.parent / "board")

    def channel(self, **options: Any) -> Any:
        # The class itself: a name would be imported in each child.
        url, of_ours = f"filesystem://{self.folder}", transport.FilesystemTransport
        return kombu.Connection(url, transport=of_ours, transport_options=options).channel()

    def sql(self, text: str) -> None:
        with closing(apsw.Connection(str(self.folder / "bus.db"))) as database:
            database.execute(text).fetchall()


class Scenario(NamedTuple):
    """`prepare` leaves a store, by a process that dies; another one runs `act`, and tells when to count its steps."""

    prepare: Callable[[Bus], object]
    act: Callable[[Bus, Arm], object]
    states: list[State]
    """What may be found in the order of the steps, the first and the last included."""


# How stores begin


def queues(channel: Any, **arguments: dict[str, object]) -> Any:
    for name, given in arguments.items():
        channel.queue_declare(name, auto_delete=False, arguments=given)
    return channel


def put(channel: Any, queue: str, *bodies: str, exchange: str = "", **properties: Any) -> None:
    for body in bodies:
        channel.basic_publish(AmqpMessage(body.encode(), **properties), exchange, queue)


def topology(bus: Bus) -> Any:
    channel = bus.channel()
    channel.exchange_declare("events", "topic")
    to_dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    queues(channel, dead={}, work=to_dead, wait={"x-message-ttl": HOUR}, ranked={"x-max-priority": 9})
    for queue in ("work", "wait", "ranked"):
        channel.queue_bind(queue, "events", "a.#")
    return channel


def three(bus: Bus) -> None:
    put(topology(bus), "work", "0", "1", "2")


def due(bus: Bus) -> None:
    channel = queues(topology(bus), short={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    put(channel, "short", "0", "1", expiration="1")
    put(channel, "short", "2", expiration=str(HOUR))


def limited(bus: Bus) -> None:
    arguments = {"x-max-length": 2, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    put(queues(topology(bus), last=arguments), "last", "0", "1")


def full(bus: Bus) -> None:
    put(topology(bus), "a.b", "0", "1", exchange="events", priority=5)
    channel = bus.channel()
    channel.basic_get("wait")
    channel.basic_get("ranked")


def dead_claimer(bus: Bus) -> None:
    three(bus)
    channel = bus.channel()
    channel.queue_declare("passing", auto_delete=True)
    channel.basic_consume("passing")
    claimed(channel, 2)


def dead_pool(bus: Bus) -> None:
    three(bus)
    claimed(bus.channel(claim_file=bus.board), 2)


def freed(bus: Bus) -> None:
    channel = topology(bus)
    channel.tx_select()
    put(channel, "work", *(f"{n:05}" * 300 for n in range(3000)))
    channel.tx_commit()
    channel.queue_purge("work")


def old(bus: Bus) -> None:
    bus.folder.mkdir()
    bus.sql("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL")
    bus.sql(OLD.read_text())


def contradictory(bus: Bus) -> None:
    three(bus)
    bus.sql("DELETE FROM ready WHERE seq = 2; UPDATE depth SET ready = 7")


def damaged(bus: Bus) -> None:
    topology(bus)
    bus.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    with closing(apsw.Connection(str(bus.folder / "bus.db"))) as database:
        query = "SELECT pageno FROM dbstat WHERE name = 'waiting'"
        page = int(str(database.execute(query).fetchall()[0][0]))
    with (bus.folder / "bus.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)
    # From here on all is in the log: an index that these messages don't need is damaged.
    put(bus.channel(), "work", "0", "1", "2")


# What is done with them


def claimed(channel: Any, count: int) -> list[int]:
    return [channel.basic_get("work").delivery_tag for _ in range(count)]


def publish(bus: Bus, arm: Arm) -> None:
    channel = bus.channel()
    channel.tx_select()
    arm()
    put(channel, "a.b", "0", "1", exchange="events")
    put(channel, "a.b", "2", exchange="events", priority=3)
    channel.tx_commit()


def publish_over_the_limit(bus: Bus, arm: Arm) -> None:
    channel = bus.channel()
    arm()
    put(channel, "last", "2")


def claim(bus: Bus, arm: Arm) -> None:
    channel = bus.channel()
    channel.basic_qos(0, 2, True)
    arm()
    channel.basic_consume("work")
    channel.connection.drain_events(timeout=1)


def move_due(bus: Bus, arm: Arm) -> None:
    channel = bus.channel()
    time.sleep(0.005)  # for what lives 1 ms
    arm()
    channel.basic_get("work")


def settle(method: str, *arguments: bool, publishing: bool = False) -> Callable[[Bus, Arm], None]:
    """Claims two and settles them in one transaction, which also publishes if that is asked for."""

    def settling(bus: Bus, arm: Arm) -> None:
        channel = bus.channel()
        tags = claimed(channel, 2)
        channel.tx_select()
        arm()
        for tag in tags:
            getattr(channel, method)(tag, *arguments)
        if publishing:
            put(channel, "wait", "retry")
        channel.tx_commit()

    return settling


def purge(bus: Bus, arm: Arm) -> None:
    channel = bus.channel()
    arm()
    channel.queue_purge("work")


def declare(bus: Bus, arm: Arm) -> None:
    channel = bus.channel()
    arm()
    channel.exchange_declare("events", "topic")
    channel.queue_declare("work", auto_delete=False)
    channel.queue_bind("work", "events", "a.#")


def delete_queue(name: str) -> Callable[[Bus, Arm], None]:
    def deleting(bus: Bus, arm: Arm) -> None:
        channel = bus.channel()
        channel.basic_get(name)
        arm()
        channel.queue_delete(name)

    return deleting


def delete_exchange(bus: Bus, arm: Arm) -> None:
    channel = bus.channel()
    arm()
    channel.queue_unbind("ranked", "events", "a.#")
    channel.exchange_delete("events")


def close(bus: Bus, arm: Arm) -> None:
    channel = bus.channel()
    channel.queue_declare("passing", auto_delete=True)
    channel.basic_consume("passing")
    claimed(channel, 2)
    arm()
    channel.connection.close()


def open_it(bus: Bus, arm: Arm) -> None:
    arm()
    bus.channel()


def take_over(bus: Bus, arm: Arm) -> None:
    arm()
    bus.channel(claim_file=bus.board)


def release(bus: Bus, arm: Arm) -> None:
    channel = bus.channel()
    (path,) = channel.abandoned_claims(["work"])
    arm()
    channel.release_claims(path)


def shrink(bus: Bus, arm: Arm) -> None:
    database = Database(Location(bus.folder, "full"), Space(bus.folder, memory=False))
    arm()
    while upkeep.shrink(database):
        pass


def repair(bus: Bus, arm: Arm) -> None:
    arm()
    checkup.repair(Location(bus.folder, "full"), "lost and found")


EMPTY: State = {"dead": [], "ranked": [], "routes": ["ranked", "wait", "work"], "wait": [], "work": []}
HEAD = {**EMPTY, "work": ["0*", "1*", "2"]}
ALL = {**EMPTY, "work": ["0", "1", "2"]}
SHORT = {**EMPTY, "short": ["0", "1", "2"]}
LAST = {**EMPTY, "last": ["0", "1"]}
FULL = {**EMPTY, **{name: ["0*", "1"] for name in ("wait", "ranked")}, "work": ["0", "1"]}
POOL = {**EMPTY, "claimed": ["work", "work"], "work": ["2"]}
V1: State = {
    "dead": ["dead"],
    "routes": ["work"],
    "spare": ["unrouted"],
    "wait": ["waits"],
    "work": ["ready 0*", "ready 1*", "ready 2", "ready 3", "ready 4", "expires"],
}

SCENARIOS = {
    "publishing": Scenario(
        topology, publish,
        [EMPTY, {**EMPTY, "work": ["0", "1", "2"], "wait": ["0", "1", "2"], "ranked": ["2", "0", "1"]}],
    ),
    "publishing over the limit": Scenario(
        limited, publish_over_the_limit, [LAST, {**LAST, "last": ["1", "2"], "dead": ["0"]}]
    ),
    "claiming": Scenario(three, claim, [ALL, HEAD]),
    "moving what is due": Scenario(due, move_due, [SHORT, {**SHORT, "short": ["2"], "dead": ["0", "1"]}]),
    "acknowledging": Scenario(three, settle("basic_ack"), [HEAD, {**EMPTY, "work": ["2"]}]),
    "rejecting": Scenario(
        three, settle("basic_reject", False), [HEAD, {**EMPTY, "work": ["2"], "dead": ["0", "1"]}]
    ),
    "giving back": Scenario(three, settle("basic_reject", True), [HEAD]),
    "settling with a retry": Scenario(
        three, settle("basic_ack", publishing=True), [HEAD, {**EMPTY, "work": ["2"], "wait": ["retry"]}]
    ),
    "purging": Scenario(three, purge, [ALL, EMPTY]),
    "declaring": Scenario(
        lambda bus: bus.channel(), declare, [{}, {"routes": []}, {"routes": [], "work": []},
        {"routes": ["work"], "work": []}],
    ),
    "deleting a queue": Scenario(
        full, delete_queue("wait"),
        [FULL, {**{name: held for name, held in FULL.items() if name != "wait"}, "routes": ["ranked", "work"]}],
    ),
    "deleting an exchange": Scenario(
        full, delete_exchange, [FULL, {**FULL, "routes": ["wait", "work"]},
        {name: held for name, held in FULL.items() if name != "routes"}],
    ),
    "closing": Scenario(three, close, [HEAD]),
    "making a store": Scenario(lambda bus: None, open_it, [{}]),
    "opening after a death": Scenario(dead_claimer, open_it, [HEAD]),
    "opening an older store": Scenario(old, open_it, [V1]),
    "taking over": Scenario(dead_pool, take_over, [POOL, HEAD]),
    "releasing the claims of another": Scenario(dead_pool, release, [POOL, HEAD]),
    "giving space back": Scenario(freed, shrink, [EMPTY]),
    "repairing a contradiction": Scenario(
        contradictory, repair, [{**EMPTY, "work": ["0", "1*", "2"]}]
    ),
    "repairing a damaged file": Scenario(damaged, repair, [ALL]),
}  # fmt: skip


# What is found afterwards


def found(bus: Bus) -> State:
    """What the next process finds, after it has seen that the store works at once and is whole."""
    for path in bus.folder.glob("*/*"):
        os.utime(path, (0, 0))  # a file that is a moment old may be about to be used
    begun = time.monotonic()
    channel = bus.channel()
    state = look(channel)
    try_it(channel)
    took = time.monotonic() - begun
    channel.connection.close()
    consistent(bus.folder, unused="claimed" not in state)
    assert took < AT_ONCE, f"the next process needed {took:.1f} s"
    return state


def look(channel: Any) -> State:
    counts = {name: channel.queue_counts(name) for name in channel.queue_names()}
    state = {name: [told(raw) for raw in in_order(channel, name)] for name in counts}
    assert {name: len(held) for name, held in state.items()} == {name: ready for name, (ready, _) in counts.items()}
    if held := [name for name, (_, claimed) in counts.items() for _ in range(claimed)]:
        state["claimed"] = held
    try:
        state["routes"] = sorted(channel.routes("events", "a.b"))
    except NotFound:
        pass
    return state


def in_order(channel: Any, queue: str) -> list[Any]:
    """The messages of a queue in the order in which they are given out."""
    raws = channel.browse(queue)
    return sorted(raws, key=lambda raw: -(raw.properties.get("priority") or 0)) if queue == "ranked" else raws


def told(raw: Any) -> str:
    return f"{raw.body.decode()}{'*' if raw.delivery_info['redelivered'] else ''}"


def try_it(channel: Any) -> None:
    queues(channel, trial={})
    put(channel, "trial", "works")
    assert channel.basic_get("trial", no_ack=True).body == b"works"
    channel.queue_delete("trial")


def try_all_steps(name: str, home: Path, *, lines: bool) -> int:
    """Kills a process before each step of a scenario; the number of steps."""
    scenario = SCENARIOS[name]
    prepared = Bus(home / "prepared")
    prepared.home.mkdir()
    killed_before(0, lambda arm: scenario.prepare(prepared))
    seen: list[int] = []
    step = 0
    killed = True
    while killed:
        step += 1
        bus = Bus(home / str(step))
        if prepared.folder.exists():
            copy(prepared.folder, bus.folder)
        killed = killed_before(step, lambda arm, bus=bus: scenario.act(bus, arm), lines=lines)  # type: ignore[misc]
        if name.startswith("repairing") and step > 0:
            answer_of(lambda bus=bus: repair(bus, lambda: None))  # type: ignore[misc]
        state = answer_of(lambda bus=bus: found(bus))  # type: ignore[misc]
        assert state in scenario.states, f"before step {step} of {name}: {state}"
        seen.append(scenario.states.index(state))
    assert seen == sorted(seen), f"{name} was done and then undone: {seen}"
    assert (seen[0], seen[-1]) == (0, len(scenario.states) - 1), f"{name}: {seen}"
    return step


if __name__ == "__main__":
    gc.freeze()
    print(try_all_steps(sys.argv[1], Path(sys.argv[2]), lines="lines" in sys.argv[3:]))
