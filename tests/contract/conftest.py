"""One bus for each transport: what the contract suite runs on."""

from collections.abc import Iterator

import pytest

from busworker.broker.session import Session
from tests.contract.bench import Bench
from tests.support.embedded import SCHEMES, embedded_url
from tests.support.home import Home


@pytest.fixture(params=[*SCHEMES, "amqp"])
def bus_url(request: pytest.FixtureRequest, home: Home) -> Iterator[str]:
    """A bus of the test's own, on every transport."""
    if request.param == "amqp":
        yield request.getfixturevalue("amqp_url")
        return
    with embedded_url(request.param, home) as url:
        yield url


@pytest.fixture
def bench(bus_url: str, home: Home) -> Iterator[Bench]:
    """Sessions and processes on a bus of every transport."""
    with Bench(bus_url, home) as bench:
        yield bench


@pytest.fixture
def engine(broker_url: str, home: Home) -> Iterator[Bench]:
    """The same on the embedded transports alone."""
    with Bench(broker_url, home) as bench:
        yield bench


@pytest.fixture
def session(bench: Bench) -> Session:
    """The session that publishes and looks."""
    return bench.session()


@pytest.fixture
def work(session: Session) -> str:
    """The work queue of user.registered/email.welcome."""
    return session.declare_work("user.registered", "email", "welcome")
