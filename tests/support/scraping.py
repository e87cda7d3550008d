"""Asking a service over HTTP, as a probe or Prometheus does."""

import http.client
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support.command import Service

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: str
    content_type: str


def port_of(service: Service) -> int:
    """Where a service that was started with `--http 127.0.0.1:0` listens, as its log says last."""
    service.wait_log("metrics and probes at ")
    return int(re.findall(r"metrics and probes at http://[^ ]*:(\d+)", service.stderr)[-1])


def fetch(port: int, path: str, method: str = "GET", accept: str = "*/*", timeout: float = 10.0) -> Answer:
    """What is served there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, headers={"Accept": accept})
        response = connection.getresponse()
        return Answer(response.status, response.read().decode(), response.headers["Content-Type"])
    finally:
        connection.close()


def families(port: int, accept: str = "*/*") -> dict[str, Metric]:
    """The metrics that are served there, by name; in OpenMetrics if that is accepted."""
    answer = fetch(port, "/metrics", accept=accept)
    assert answer.status == 200, answer
    parse = (
        open_metrics
        if answer.content_type.startswith("application/openmetrics-text")
        else text_string_to_metric_families
    )
    return {family.name: family for family in parse(answer.body)}


def values(port: int, name: str, **labels: str) -> float | None:
    """The sum of the samples of that name that have these labels; None: there is none."""
    found = [
        sample.value
        for family in families(port).values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found) if found else None


@contextmanager
def silent(port: int, number: int) -> Iterator[None]:
    """So many clients that connect and say nothing."""
    with ExitStack() as clients:
        for _ in range(number):
            clients.enter_context(socket.create_connection(("127.0.0.1", port)))
        yield
