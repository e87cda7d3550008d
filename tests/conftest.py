"""The fixtures that every test may ask for, and the check that none leaves anything running."""

import os
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import kombu
import pytest

from busworker.brokers import EMBEDDED
from tests.support.cluster import Cluster
from tests.support.command import Command
from tests.support.embedded import SCHEMES, embedded_url, memory_url
from tests.support.home import Home
from tests.support.leftovers import Leftovers
from tests.support.proxy import Proxy
from tests.support.rabbitmq import Missing, Node, ensure_installed
from tests.support.rabbitmq_keeper import Keeper, RabbitMQ
from tests.support.stage import Stage

# No time limit for an example: other tests run beside it. And no database: processes that make its folder at once warn.
hypothesis.settings.register_profile("busworker", deadline=None, database=None)
hypothesis.settings.load_profile("busworker")

KEEPER = pytest.StashKey[Keeper]()
RUN = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what it runs in the background with interrupts ignored, and our commands would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    given: dict[str, str] | None = getattr(config, "workerinput", None)
    if given is not None:
        config.stash[RUN] = Path(given["run"])
        return
    config.stash[RUN] = Path(tempfile.mkdtemp(prefix="bw-run-", dir="/tmp"))
    config.stash[KEEPER] = Keeper(config.stash[RUN])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Half as many more than there are processors, for `-n auto`: the tests mostly wait."""
    given = "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ
    return None if given else (os.cpu_count() or 1) * 3 // 2


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["run"] = str(node.config.stash[RUN])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if why := config.stash[KEEPER].missing:
        terminalreporter.section("NO AMQP TEST WAS RUN", sep="!", red=True, bold=True)
        terminalreporter.line(why)


def pytest_unconfigure(config: pytest.Config) -> None:
    if KEEPER in config.stash:
        config.stash[KEEPER].close()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fails a test that leaves a thread or a child process."""
    before = Leftovers()
    yield
    before.check()


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Iterator[str]:
    """The bus of the test's home: its default one, unless the test is marked by `on` (tests/support/transports.py)."""
    match getattr(request, "param", "filesystem"):
        case "filesystem":
            yield ""
        case "memory":
            with memory_url() as url, kombu.Connection(url, transport=EMBEDDED["memory"]) as user:
                user.connect()  # and stays: such a bus ends with its last user, and tests restart their services
                yield url
        case "proxied" | "victim-proxied":
            yield request.getfixturevalue("proxy").url
        case "cluster":
            yield request.getfixturevalue("cluster").url
        case "victim" | "victim-classic":
            yield _typed(request.getfixturevalue("victim_url"), request.param)
        case _:
            yield _typed(request.getfixturevalue("amqp_url"), request.param)


@pytest.fixture
def home(broker: str) -> Iterator[Home]:
    """Folders and an environment of the test's own, for the processes it starts."""
    home = Home.create(broker)
    yield home
    home.remove()


@pytest.fixture
def command(home: Home) -> Iterator[Command]:
    """Runs and starts the installed `busworker`. Fails a test whose processes outlive their supervisor."""
    command = Command(home)
    yield command
    command.close()


@pytest.fixture
def stage(command: Command, home: Home) -> Stage:
    """Services on the home's bus, whose handlers record what they do."""
    return Stage(command, home)


@pytest.fixture(params=SCHEMES)
def broker_url(request: pytest.FixtureRequest, home: Home) -> Iterator[str]:
    """An embedded bus of the test's own."""
    with embedded_url(request.param, home) as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq(request: pytest.FixtureRequest) -> RabbitMQ:
    """The RabbitMQ node of this run: one for all tests, so for those that leave it as it is."""
    with _or_skipped():
        return RabbitMQ(request.config.stash[RUN])


@pytest.fixture
def amqp_url(rabbitmq: RabbitMQ) -> str:
    """A virtual host of the test's own."""
    return rabbitmq.new_vhost()


@pytest.fixture
def amqps_url(rabbitmq: RabbitMQ) -> str:
    """The same by TLS: its options name the node's authority and a client's certificate, without which it refuses."""
    return rabbitmq.new_tls_vhost()


@pytest.fixture
def proxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """A proxy in front of the bus of a test that is marked `on("proxied")` or `on("victim-proxied")`."""
    victim = "victim" in request.node.name
    with Proxy(request.getfixturevalue("victim_url" if victim else "amqp_url")) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def lasting_victim(request: pytest.FixtureRequest) -> Iterator[Node]:
    """The node of `victim`: one for each process that runs tests, since a boot takes about 6 s."""
    with _or_skipped():
        ensure_installed()
    node = Node(request.config.stash[RUN] / f"victim-{os.getpid()}", lasting=True)
    try:
        node.start()
        yield node
    finally:
        node.close()


@pytest.fixture
def victim(lasting_victim: Node) -> Iterator[Node]:
    """A RabbitMQ node that this test has for itself: it may stop, pause, kill and alarm it. It is mended afterwards."""
    yield lasting_victim
    if lasting_victim.running:
        lasting_victim.resume()
    else:
        lasting_victim.start()


@pytest.fixture
def victim_url(victim: Node) -> str:
    """A virtual host of the test's own on the victim."""
    name = uuid.uuid4().hex[:8]
    victim.add_vhosts(name)
    return victim.url(name)


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three RabbitMQ nodes that are one cluster, for a test that is marked `on("cluster")`. About 10 s."""
    with _or_skipped():
        ensure_installed()
    folder = request.config.stash[RUN] / f"cluster-{uuid.uuid4().hex[:8]}"
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def own_rabbitmq(home: Home) -> Iterator[Node]:
    """A RabbitMQ node for this test alone, which may stop, pause and kill it. A boot takes about 6 s."""
    with _or_skipped():
        ensure_installed()
    node = Node(home.path / "rabbitmq")
    try:
        node.start()
        yield node
    finally:
        node.close()


def _typed(url: str, transport: str) -> str:
    return f"{url}?queue_type=classic" if "classic" in transport else url


@contextmanager
def _or_skipped() -> Iterator[None]:
    """Without RabbitMQ the test is skipped, or fails where CI is true."""
    try:
        yield
    except Missing as missing:
        if os.environ.get("CI") == "true":
            raise pytest.fail.Exception(f"RabbitMQ is missing: {missing}", pytrace=False) from None
        raise pytest.skip.Exception(f"RABBITMQ IS MISSING: {missing}") from None
