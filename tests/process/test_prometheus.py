"""A real Prometheus scrapes a service, with the configuration and the alerts of contrib."""

import json
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import Stage, wait_until
from tests.support.scraping import port_of

CONTRIB = Path(__file__).parents[2] / "contrib" / "prometheus"
TOPICS = 5
APP = """
from busworker import Bus, Pattern
bus = Bus("shop")

@bus.channel("audit", processes=2).subscribe(Pattern("#"))
def audit(event): pass
"""


class Prometheus:
    """Asks a running one."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    def get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self._url}{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, query: str) -> float | None:
        """The only value of a query; None: there is none, or it isn't up."""
        try:
            found = self.get("query", query=query)["result"]
        except OSError:
            return None
        return float(found[0]["value"][1]) if found else None


@contextmanager
def scraping(folder: Path, port: int) -> Iterator[Prometheus]:
    """Prometheus as contrib configures it, but faster, and with that port as its target."""
    text = (CONTRIB / "prometheus.yml").read_text().replace("15s", "1s")
    (folder / "prometheus.yml").write_text(re.sub(r"targets: .*", f"targets: ['127.0.0.1:{port}']", text))
    shutil.copy(CONTRIB / "alerts.yml", folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
    arguments = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb")
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", *arguments, f"--web.listen-address=127.0.0.1:{own}"], stdout=log, stderr=log
        )
        try:
            yield Prometheus(own)
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="PROMETHEUS IS MISSING: nothing has scraped a service")
def test_prometheus_reads_a_service_loads_the_alerts_and_sees_only_what_is_declared(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop", "--http", "127.0.0.1:0")
    with scraping(stage.home.path, port_of(service)) as prometheus:
        for number in range(TOPICS):
            stage.publish(f"topic.{number}", *range(20))
        handled = "sum(busworker_processed_total)"
        wait_until(lambda: prometheus.value(handled) == TOPICS * 20, 20, lambda: f"{prometheus.value(handled)} handled")
        assert prometheus.value('up{job="busworker"}') == 1
        assert [target["health"] for target in prometheus.get("targets")["activeTargets"]] == ["up"]
        loaded = [rule["name"] for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        groups = yaml.safe_load((CONTRIB / "alerts.yml").read_text())["groups"]
        assert loaded == [rule["alert"] for group in groups for rule in group["rules"]]
        assert prometheus.get("label/subscription/values") == ["#/shop.audit"]
        assert prometheus.get("label/slot/values") == ["1", "2"]
        assert not {"topic", "pid"} & set(prometheus.get("labels"))
    assert service.terminate() == 0
