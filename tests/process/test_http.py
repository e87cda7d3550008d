"""Metrics and probes over HTTP: what they say, that they stay there, and that they harm nobody."""

import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from busworker.message import Outgoing
from busworker.spool import Spool
from tests.support import Service, Stage, wait_until
from tests.support.scraping import OPEN_METRICS, families, fetch, port_of, silent, values
from tests.support.transports import on

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
APP = """
import os
from busworker import Bus, Pattern, RetryPolicy, Topic
from recording import record, wait_for

bus = Bus("shop")
pool = bus.channel("pool", processes=2)

@pool.subscribe(Topic("order.placed", str), retry=RetryPolicy(2, delays=(0,)))
def place(event):
    record(event)
    if event == "fails":
        raise ValueError("as told")
    if event == "crashes":
        os._exit(3)
    if event == "waits":
        wait_for("gate")

@bus.channel("audit").subscribe(Pattern("order.#"))
def audit(event): pass
"""
PLACED, AUDITED = "order.placed/shop.pool", "order.#/shop.audit"


@pytest.fixture
def service(stage: Stage) -> Service:
    """Its publishers have left a message in their spool."""
    stage.home.write("shop.py", APP)
    folder = stage.home.path / "spool"
    spool = Spool(folder)
    spool.put([Outgoing("busworker", "order.placed", b'"spooled"', {}, {})])
    spool.close()
    return stage.start("shop", "--http", "127.0.0.1:0", env={"BUSWORKER_SPOOL": str(folder)})


def is_gone(service: Service, pid: int) -> bool:
    return pid not in {one.pid for one in service.tree()}


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """The metrics of the page: type and labels by name."""
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `busworker_")]
    return {row[0].strip("| `"): (row[1], frozenset(re.findall(r"`(\w+)`", row[3])) | {"service"}) for row in rows}


def exported(port: int) -> dict[str, tuple[str, frozenset[str]]]:
    """The same of a running service."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for family in families(port).values():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
        if family.samples:
            found[name] = (family.type, labels)
    return found


@on("filesystem", "amqp")
def test_a_service_tells_how_it_is_and_what_it_did(stage: Stage, service: Service) -> None:
    port = port_of(service)
    for path, probe in (("/livez", "live"), ("/readyz", "ready"), ("/startupz", "startup")):
        assert fetch(port, path) == (200, f"{probe}: shop (instance default) is running\n", "text/plain; charset=utf-8")
        assert fetch(port, path, "HEAD").body == ""
    assert (fetch(port, "/").status, fetch(port, "/livez", "POST").status) == (404, 405)

    stage.publish("order.placed", "works", "fails", "crashes", 7)
    stage.publish("order.paid", "by card")
    wait_until(lambda: values(port, "busworker_dead_lettered_total") == 3, 20, lambda: fetch(port, "/metrics").body)
    counted = {
        ("processed", PLACED, None): 1,
        ("processed", AUDITED, None): 5,
        ("failed", PLACED, "exception"): 2,
        ("failed", PLACED, "crash"): 2,
        ("retried", PLACED, "exception"): 1,
        ("dead_lettered", PLACED, "crash"): 1,
        ("dead_lettered", PLACED, "invalid"): 1,
        ("dead_lettered", PLACED, "rejected"): 0,
    }
    for (name, subscription, reason), number in counted.items():
        labels = {"subscription": subscription} | ({} if reason is None else {"reason": reason})
        assert values(port, f"busworker_{name}_total", **labels) == number, (name, labels)
    assert values(port, "busworker_handler_seconds_count", subscription=PLACED) == 3, "a crash has no time"
    assert values(port, "busworker_waiting_seconds_count", subscription=PLACED) == 3, "as often"
    assert values(port, "busworker_process_deaths_total", process="worker", cause="exit") == 2
    assert values(port, "busworker_dead_messages", channel="pool") == 3
    assert values(port, "busworker_workers", channel="pool", state="idle") == 2
    for place in ("spool",) if stage.amqp else ("bus", "spool"):
        assert values(port, "busworker_disk_free_bytes", place=place)
    wait_until(lambda: values(port, "busworker_spool_messages") == 1, 10, "the spool is counted")
    wait_until(lambda: values(port, "busworker_worker_resident_memory_bytes", slot="2"), 5, "the memory of both")
    missing = {"busworker_waiting_messages"} if stage.amqp else set[str]()
    assert exported(port) == {name: found for name, found in documented().items() if name not in missing}
    assert families(port, OPEN_METRICS)["busworker_processed"].type == "counter"


def test_counts_outlive_every_process_but_the_supervisor(stage: Stage, service: Service) -> None:
    port = port_of(service)

    def processed(number: int) -> bool:
        return values(port, "busworker_processed_total", subscription=PLACED) == number

    for lap, role in enumerate(("worker", "consumer", "http"), 1):
        stage.publish("order.placed", "works")
        wait_until(partial(processed, lap), 20, "a message")
        (victim, *_) = service.tree(role)
        os.kill(victim.pid, signal.SIGKILL)
        wait_until(partial(is_gone, service, victim.pid), 5, "its death")
        wait_until(lambda: fetch(port, "/readyz").status == 200, 20, lambda: service.stderr)
        assert processed(lap)
        assert values(port, "busworker_handler_seconds_count", subscription=PLACED) == lap
    assert values(port, "busworker_process_deaths_total", process="consumer", cause="signal") == 1
    assert "the http process died" in service.stderr
    service.signal(signal.SIGHUP)
    wait_until(lambda: service.stderr.count("metrics and probes at") == 3, 20, lambda: service.stderr)
    wait_until(lambda: fetch(port_of(service), "/readyz").status == 200, 20, lambda: service.stderr)
    assert service.terminate() == 0


def test_neither_silent_clients_nor_a_silent_supervisor_hold_it_up(service: Service) -> None:
    port = port_of(service)
    with silent(port, 200):
        assert fetch(port, "/readyz").status == 200
        with socket.create_connection(("127.0.0.1", port)) as flood:
            flood.sendall(b"GET /livez HTTP/1.1\r\nX: " + 32 * 1024 * b"x")
            assert flood.recv(100).startswith(b"HTTP/1.1 400 ")
        os.kill(service.pid, signal.SIGSTOP)
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(values, port, "busworker_supervisor_up"), pool.submit(fetch, port, "/livez")
            metrics, live = (one.result() for one in asked)
        os.kill(service.pid, signal.SIGCONT)
    assert metrics == 0
    assert live == (503, "live: the supervisor didn't answer within 2 s\n", "text/plain; charset=utf-8")
    (process,) = service.tree("http")
    os.kill(process.pid, signal.SIGSTOP)  # it holds nobody up either
    assert service.terminate() == 0


def test_an_address_that_cannot_be_had_ends_the_start_before_anything_runs(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = stage.command.run("start", "shop", "--http", address)
        assert done.returncode == 78
        why = "can't be used: Address already in use; end what uses it, or give another"
        assert done.stderr == f"busworker: --http: http://{address} {why}\n"
        service = stage.start("shop", "--http", "off", env={"BUSWORKER_HTTP": address})
        assert not service.tree("http")
    done = stage.command.run("start", "shop", env={"BUSWORKER_HTTP": "nine"})
    assert (done.returncode, "BUSWORKER_HTTP: 'nine' is no address" in done.stderr) == (78, True)


def test_a_socket_in_a_folder_is_taken_over_from_a_killed_service(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    path = stage.home.path / "http"
    for kill in (True, False):
        service = stage.start("shop", "--http", f"unix:{path}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(path))
            client.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            assert client.makefile("rb").read().endswith(b"ready: shop (instance default) is running\n")
        if kill:
            service.kill_tree()
        else:
            assert service.terminate() == 0
    assert not path.exists()
