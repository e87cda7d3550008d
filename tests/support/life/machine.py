"""Random lives: each rule is one thing that may happen, and none is refused, so any order of them is a life."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.support.life.clock import Clock
from tests.support.life.mortal import Turn
from tests.support.life.pool import SLOTS, Aftermath, Deed, Pool, Puppet
from tests.support.life.store import Kind

KINDS = st.lists(st.sampled_from(["event", "event", "pattern", "foreign", "stray"]), min_size=3, max_size=8)
INDEX = st.integers(0, 5)
"""Of something, modulo how many there are."""
ENDS = st.sampled_from(
    ["returned", "returned", "exception", "exception", "rejected", "invalid", "time_limit", "unhandled"]
)
THENS = st.sampled_from(["goes on", "goes on", "goes on", "dies", "dies halfway"])
DEEDS = st.builds(Deed, INDEX, INDEX, ENDS, st.sampled_from([None, 0, 1, 2]), THENS, st.booleans())
CAUSES = st.sampled_from(["died", "time_limit", "memory_limit", "stopped"])
FAULTS = st.sampled_from(["", "", "", "lost at fetch", "lost at settle", "refused at settle"])
AFTERMATHS = st.builds(Aftermath, st.booleans(), st.sampled_from(["consumer", "tree", "elsewhere"]))


def machine(clock: Clock, happened: Counter[str], broker: str = "") -> type[RuleBasedStateMachine]:
    """The machine, each of whose runs has a store of its own; what happens in all of them is added to `happened`.

    `broker`: as of `Pool`.
    """

    class MessageLife(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self._folder = Path(tempfile.mkdtemp(prefix="busworker-life-"))
            self._pool: Pool | None = None

        @property
        def pool(self) -> Pool:
            assert self._pool is not None
            return self._pool

        def worker(self, index: int) -> Puppet | None:
            workers = list(self.pool.workers.values())
            return workers[index % len(workers)] if workers else None

        def replace_dead(self) -> None:
            for slot in range(SLOTS):
                self.pool.add_worker(slot)

        @initialize(concurrency=st.sampled_from([1, 3]), kinds=KINDS)
        def start(self, concurrency: int, kinds: list[Kind]) -> None:
            self._pool = Pool(self._folder, concurrency, clock, broker)
            self.publish(kinds)

        @rule(kinds=KINDS)
        def publish(self, kinds: list[Kind]) -> None:
            for kind in kinds:
                self.pool.store.publish(kind)
            self.pool.turn()

        @rule(tell=st.booleans(), count=st.integers(1, 3))
        def turns(self, tell: bool, count: int) -> None:
            for _ in range(count):
                self.pool.turn(tell=tell)

        @rule(tell=st.booleans(), fault=FAULTS)
        def turn_with_a_fault(self, tell: bool, fault: str) -> None:
            self.pool.turn(Turn(0, fault), tell=tell)

        @rule(tell=st.booleans(), fault=FAULTS, die_at=st.integers(1, 12), after=AFTERMATHS)
        def turn_and_die(self, tell: bool, fault: str, die_at: int, after: Aftermath) -> None:
            self.pool.turn(Turn(die_at, fault), after, tell=tell)

        @rule(index=INDEX)
        def begin(self, index: int) -> None:
            if worker := self.worker(index):
                self.pool.begin(worker)

        @rule(deeds=st.lists(DEEDS, min_size=1, max_size=4), turns=st.integers(0, 2))
        def work(self, deeds: list[Deed], turns: int) -> None:
            """Attempts end, with so many turns after each."""
            for deed in deeds:
                if worker := self.worker(deed.index):
                    self.pool.begin(worker)
                    self.pool.end(worker, deed)
                for _ in range(turns):
                    self.pool.turn()
                    self.replace_dead()

        @rule(index=INDEX, which=INDEX, cause=CAUSES, begins=st.integers(0, 3), fault=FAULTS)
        def die(self, index: int, which: int, cause: str, begins: int, fault: str) -> None:
            if worker := self.worker(index):
                for _ in range(begins):
                    self.pool.begin(worker)
            if fault:
                self.pool.turn(Turn(0, fault))
            if worker := self.worker(index):
                self.pool.die(worker, which, cause)

        @rule(seconds=st.integers(0, 2))
        def time_goes_by(self, seconds: int) -> None:
            clock.forward(seconds)
            self.replace_dead()

        @rule(begins=st.integers(0, 3), after=AFTERMATHS)
        def kill_consumer(self, begins: int, after: Aftermath) -> None:
            for worker in self.pool.workers.values():
                for _ in range(begins):
                    self.pool.begin(worker)
            self.pool.kill_consumer(after)

        @rule(what=st.sampled_from(["leave", "babble", "go_mad", "retire", "replay", "drain"]), index=INDEX)
        def rarely(self, what: str, index: int) -> None:
            match what, self.worker(index):
                case "replay", _:
                    self.pool.store.replay()
                case "drain", _:
                    self.pool.drain()
                case _, Puppet() as worker:
                    getattr(self.pool, what)(worker)
                case _:
                    pass  # nobody is there

        def teardown(self) -> None:
            try:
                if self._pool is not None:
                    self._finish(self._pool)
            finally:
                shutil.rmtree(self._folder)

        def _finish(self, pool: Pool) -> None:
            try:
                if sys.exc_info()[0] is None:
                    pool.settle_all()
            finally:
                pool.close()
                happened.update(pool.happened)
                happened.update({f"settled: {end}": count for end, count in pool.table.ends.items()})

    return MessageLife
