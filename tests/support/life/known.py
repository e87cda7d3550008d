"""Lives in which the consumer was wrong once, or would be by a slip that chance finds rarely."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.support.life.clock import Clock
from tests.support.life.mortal import Turn
from tests.support.life.pool import Aftermath, Pool, Puppet
from tests.support.life.table import Violation
from tests.support.waiting import wait_until

PATIENCE = 10.0
"""Seconds for a message to arrive, where it isn't there at once."""


def play(life: Callable[[Pool], None], concurrency: int, clock: Clock, broker: str = "") -> None:
    """Plays one, and then lets everything settle; `broker`: as of `Pool`."""
    with (
        tempfile.TemporaryDirectory(prefix="busworker-life-") as folder,
        closing(Pool(Path(folder), concurrency, clock, broker)) as pool,
    ):
        pool.store.publish("event")
        wait_until(lambda: _handed(pool), PATIENCE, "the message is handed out")
        life(pool)
        pool.settle_all()


def left_while_the_connection_was_lost(pool: Pool) -> None:
    worker = _worker(pool)
    pool.turn(Turn(fault="lost at fetch"))
    pool.leave(worker)


def stopped_while_the_connection_was_lost(pool: Pool) -> None:
    worker = _worker(pool)
    pool.begin(worker)
    pool.turn(Turn(fault="lost at fetch"))
    pool.die(worker, 0, "stopped")


def crashed_while_the_connection_was_lost_twice(pool: Pool) -> None:
    worker = _worker(pool)
    pool.begin(worker)
    for _ in range(2):
        pool.turn(Turn(fault="lost at fetch"))
    pool.die(worker, 0, "died")


def owed_to_a_pool_that_another_instance_takes_over(pool: Pool) -> None:
    pool.begin(_worker(pool))
    pool.kill_consumer(Aftermath(where="tree"))
    pool.kill_consumer(Aftermath(where="elsewhere"))


def executing_when_another_instance_takes_over(pool: Pool) -> None:
    pool.begin(_worker(pool))
    pool.kill_consumer(Aftermath(where="elsewhere"))


def never_begun_when_its_worker_and_then_its_pool_died(pool: Pool) -> None:
    pool.die(_worker(pool), 0, "died")
    pool.turn()
    pool.kill_consumer(Aftermath())


KNOWN = (
    left_while_the_connection_was_lost,
    stopped_while_the_connection_was_lost,
    crashed_while_the_connection_was_lost_twice,
    owed_to_a_pool_that_another_instance_takes_over,
    executing_when_another_instance_takes_over,
    never_begun_when_its_worker_and_then_its_pool_died,
)


def _handed(pool: Pool) -> bool:
    pool.turn()
    return any(worker.handed for worker in pool.workers.values())


def _worker(pool: Pool) -> Puppet:
    """The one that was handed the message."""
    found = [worker for worker in pool.workers.values() if worker.handed]
    if len(found) != 1:
        raise Violation(f"the message was handed to {found}")
    return found[0]
