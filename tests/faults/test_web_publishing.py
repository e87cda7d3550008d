"""A web service publishes while its broker is stopped or frozen: it answers in time, and with a spool nothing is lost.

WEB_REQUESTS is how many requests are made each time; with it the bound is strict, as on a machine without other work.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from busworker.broker.session import open_session
from tests.support import Home, wait_until
from tests.support.chaos.breaking import FRESH
from tests.support.rabbitmq import HOST, Node, free_ports

REQUESTS = int(os.environ.get("WEB_REQUESTS", "16"))
THREADS = 8
DEADLINE = 0.75
LATE = 0.5 if "WEB_REQUESTS" in os.environ else 3.0
"""Seconds after the deadline by which each is answered: 0.5 where nothing else runs."""
WEB = f"""
import os
from flask import Flask
from busworker import Bus, PublishFailed, Topic

app = Flask(__name__)
orders = Topic("orders", int)
bus = Bus("web", broker=os.environ["WEB_BROKER"], publish_deadline={DEADLINE}, spool=os.environ.get("WEB_SPOOL"))

@app.post("/orders/<int:number>")
def order(number):
    receipt = bus.publish(orders, number, id=str(number))
    try:
        receipt.wait()
    except PublishFailed:
        return {{"state": receipt.state, "why": str(receipt.error)}}, 503
    return {{"state": receipt.state, "spooled": receipt.spooled}}
"""


class Answered(NamedTuple):
    """What a request was told, and after how many seconds."""

    status: int
    said: dict[str, Any]
    took: float


class Web:
    """A Flask application in gunicorn, with eight threads."""

    def __init__(self, home: Home, broker: str, spool: str | None = None) -> None:
        home.write("web.py", WEB)
        (self._port,) = free_ports(1)
        args = ["--threads", str(THREADS), "--bind", f"{HOST}:{self._port}", "web:app"]
        env = {**home.env, "WEB_BROKER": broker, **({"WEB_SPOOL": spool} if spool else {})}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--log-level", "error", *args],
            cwd=home.path,
            env=env,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._listens, 20, "the web service")

    def order(self, number: int) -> Answered:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=30)
        began = time.monotonic()
        try:
            connection.request("POST", f"/orders/{number}")
            answer = connection.getresponse()
            return Answered(answer.status, json.loads(answer.read()), time.monotonic() - began)
        finally:
            connection.close()

    def orders(self, numbers: range) -> list[Answered]:
        """All of them, by eight clients at a time."""
        with ThreadPoolExecutor(THREADS) as clients:
            return list(clients.map(self.order, numbers))

    def kill(self) -> None:
        """Kill -9 of the service with its workers."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _listens(self) -> bool:
        assert self._process.poll() is None, "it has ended"
        try:
            socket.create_connection((HOST, self._port), timeout=1).close()
        except OSError:
            return False
        return True


@pytest.fixture
def webs() -> Iterator[ExitStack]:
    """Kills what is put there."""
    with ExitStack() as opened:
        yield opened


def test_requests_are_answered_in_time_whatever_the_broker_does_and_a_spool_loses_none(
    home: Home, victim: Node, victim_url: str, webs: ExitStack
) -> None:
    session = open_session(victim_url)
    session.declare()
    work = session.declare_work("orders", "shop", "pool")
    session.close()
    plain, keeping = Web(home, victim_url), Web(home, victim_url, "spool")
    webs.callback(plain.kill)
    webs.callback(keeping.kill)
    assert [web.order(n).said["state"] for n, web in ((900_001, plain), (900_002, keeping))] == ["confirmed"] * 2

    victim.pause()
    frozen = plain.orders(range(REQUESTS))
    kept = keeping.orders(range(REQUESTS, 2 * REQUESTS))
    victim.resume()
    assert {one.status for one in frozen} == {503}
    assert [one for one in kept if one.said["state"] != "confirmed"] == []
    wait_until(lambda: plain.order(900_003).status != 503, 20, "it works again")

    time.sleep(FRESH)
    victim.kill()
    stopped = plain.orders(range(REQUESTS))
    kept += keeping.orders(range(2 * REQUESTS, 3 * REQUESTS))
    keeping.kill()
    keeping = Web(home, victim_url, "spool")
    webs.callback(keeping.kill)
    kept += keeping.orders(range(3 * REQUESTS, 4 * REQUESTS))
    assert {(one.status, one.said["state"]) for one in stopped} == {(503, "failed")}
    assert [one for one in kept if one.said["state"] != "confirmed"] == []
    assert all(one.said["spooled"] for one in kept[REQUESTS:])
    slowest = max(one.took for one in (*frozen, *stopped, *kept))
    assert slowest <= DEADLINE + LATE, f"{slowest:.3f} s"

    victim.start()
    wanted = {str(number).encode() for number in range(REQUESTS, 4 * REQUESTS)}
    missing = lambda: wanted - bodies(victim_url, work)  # noqa: E731
    wait_until(lambda: not missing(), 30 + REQUESTS / 20, lambda: f"{len(missing())} are missing")


def bodies(url: str, queue: str) -> set[bytes]:
    session = open_session(url)
    try:
        return {delivery.body for delivery in session.browse(queue)}
    finally:
        session.close()
