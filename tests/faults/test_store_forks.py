"""Forks with open connections, a race for a bus that is wiped meanwhile, and threads, on the embedded engine."""

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.faults.store_programs import connected, put
from tests.support import Home, wait_until
from tests.support.embedded import embedded_url
from tests.support.whole import consistent

REPOSITORY = Path(__file__).parents[2]


def run(*command: str, timeout: float = 100) -> str:
    # To fork beside a thread is what is tried: Python 3.12 and later warn of it.
    python = [sys.executable, "-W", "ignore:This process:DeprecationWarning"]
    done = subprocess.run(
        [*python, *command], cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def forking(name: str, url: str, rounds: int) -> None:
    run("-m", "tests.faults.store_programs", name, url, str(rounds))


def test_ten_processes_that_find_a_bus_in_memory_left_by_others_all_use_the_same_new_one(home: Home) -> None:
    with embedded_url("memory", home) as url:
        forking("race", url, 20)


def test_parent_and_child_of_a_fork_go_on_and_the_parents_claims_stay_its_own(broker_url: str) -> None:
    forking("fork-idle", broker_url, 20)


@pytest.mark.parametrize("other", ["reader", "writer", "opener"])
def test_a_child_forked_while_a_thread_uses_the_bus_publishes_and_the_thread_goes_on(
    broker_url: str, other: str
) -> None:
    forking(f"fork-beside-{other}", broker_url, 30)


def test_threads_with_connections_of_their_own_handle_each_message_once(broker_url: str, home: Home) -> None:
    channel = connected(broker_url)
    channel.queue_declare("work", auto_delete=False)
    lists: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=publishing, args=(broker_url, name)) for name in "abcd"]
    threads += [threading.Thread(target=consuming, args=(broker_url, handled, lists)) for handled in lists]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert Counter(body for handled in lists for body in handled) == Counter(
        f"{name}{number}" for name in "abcd" for number in range(200)
    )
    assert channel.queue_counts("work") == (0, 0)
    channel.connection.close()
    if broker_url.startswith("filesystem"):
        consistent(home.path / "bus", unused=True)


def publishing(url: str, name: str) -> None:
    channel = connected(url)
    for start in range(0, 200, 10):
        channel.tx_select()
        put(channel, "work", *(f"{name}{number}" for number in range(start, start + 10)))
        channel.tx_commit()
    channel.connection.close()


def consuming(url: str, handled: list[str], all_handled: list[list[str]]) -> None:
    channel = connected(url)

    def handle(raw: Any) -> None:
        handled.append(raw.body.decode())
        channel.basic_ack(raw.delivery_tag)

    channel.basic_qos(0, 20, True)
    channel.basic_consume("work", callback=handle)

    def done() -> bool:
        try:
            channel.connection.drain_events(timeout=0.05)
        except TimeoutError:
            pass
        return sum(map(len, all_handled)) >= 800

    wait_until(done, 60, lambda: f"800 messages handled; {[len(one) for one in all_handled]}")
    channel.connection.close()
