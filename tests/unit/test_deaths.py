"""How the end of a process is counted, and an address that somebody else has taken while a service started again."""

import socket

import pytest

from busworker import run
from busworker.errors import ConfigurationError
from busworker.ipc.frames import Cause
from busworker.supervisor.autopsy import fate
from busworker.supervisor.child import Death
from busworker.supervisor.state import Fate, Pool, Worker

EXIT, ORDERLY, SIGNAL = Death(None, 3), Death(None, 0), Death("SIGKILL", None)


@pytest.mark.parametrize(
    ("ended", "killed", "retiring", "counted"),
    [
        (EXIT, None, False, "exit"),
        (ORDERLY, None, False, "exit"),
        (ORDERLY, None, True, None),
        (EXIT, None, True, "exit"),
        (SIGNAL, None, True, "signal"),
        (SIGNAL, "time_limit", False, "time_limit"),
        (SIGNAL, "memory_limit", True, "memory_limit"),
        (SIGNAL, "died", False, "killed"),
        (SIGNAL, "stopped", False, None),
    ],
)
def test_a_workers_death_is_counted_by_its_cause_unless_it_was_to_be(
    ended: Death, killed: Cause | None, retiring: bool, counted: Fate | None
) -> None:
    worker = Worker(0, 1, 4711, 0.0, killed=killed, retiring=retiring)
    assert fate(worker, ended, stopping=False) == counted
    assert ended is not ORDERLY or fate(worker, ended, stopping=True) is None


def test_a_pool_counts_what_it_starts_and_what_dies() -> None:
    pool, other = Pool("mail", 1), Pool("audit", 1)
    pool.consumer_started(1, 0.0)
    pool.worker_started(0, 2, 0.0)
    pool.worker_started(0, 3, 0.0)
    for counted in ("exit", "exit", None):
        pool.died("worker", counted)
    assert (pool.starts, pool.deaths) == ({"consumer": 1, "worker": 2}, {("worker", "exit"): 2})
    assert (other.starts, other.deaths) == ({"consumer": 0, "worker": 0}, {})


def test_only_a_service_that_starts_again_goes_on_without_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match="Address already in use"):
            run._http(address, again=False)
        assert run._http(address, again=True).listener is None
