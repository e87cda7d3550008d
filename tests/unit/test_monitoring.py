"""What contrib has for Prometheus, Grafana and Kubernetes: it names only what exists, and their own tools take it."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from busworker import settings
from busworker.addresses import parse_address
from busworker.cli.start import start
from busworker.http.main import PROBES

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "contrib" / "prometheus"
DASHBOARD = ROOT / "contrib" / "grafana" / "busworker.json"
DEPLOYMENT = ROOT / "contrib" / "kubernetes" / "deployment.yaml"
PAGE = ROOT / "docs" / "reference" / "metrics.md"
HOW_TO = ROOT / "docs" / "how-to" / "monitoring.md"
NAME = re.compile(r"\bbusworker_[a-z_]+\b")


def documented() -> dict[str, str]:
    """The type of each metric of the reference page, which a running service is compared with (tests/process)."""
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `busworker_")]
    return {row[0].strip("| `"): row[1] for row in rows}


def samples() -> set[str]:
    """The names that a query may have."""
    histograms = [name for name, kind in documented().items() if kind == "histogram"]
    parts = {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    return (documented().keys() - set(histograms)) | parts


def alerts() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
    ]


def values_of(key: str, found: object) -> Iterator[str]:
    """The texts under a key, however deep."""
    if isinstance(found, dict):
        for name, value in cast("dict[str, object]", found).items():
            if name == key and isinstance(value, str):
                yield value
            yield from values_of(key, value)
    elif isinstance(found, list):
        for value in cast("list[object]", found):
            yield from values_of(key, value)


def test_alerts_and_dashboard_name_only_metrics_that_exist() -> None:
    queries = [rule["expr"] for rule in alerts()]
    dashboard = json.loads(DASHBOARD.read_text())
    queries += [*values_of("expr", dashboard), *values_of("query", dashboard)]
    named = {name for query in queries for name in NAME.findall(query)}
    assert named - samples() == set()
    assert len(named) > 20


def test_the_dashboard_shows_each_metric_and_its_panels_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = {name for query in values_of("expr", panels) for name in NAME.findall(query)}
    left_out = {"busworker_info", "busworker_supervisor_up", "busworker_counts_known", "busworker_paused"}
    for name, kind in documented().items():
        wanted = {f"{name}_bucket"} if kind == "histogram" else {name}
        assert wanted & shown or name in left_out | {"busworker_given_back_total"}, name
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_the_page_has_each_alert_and_no_other() -> None:
    rows = re.findall(r"^\| `(Busworker\w+)` \|", HOW_TO.read_text(), re.MULTILINE)
    assert rows == [rule["alert"] for rule in alerts()]
    assert {rule["labels"]["severity"] for rule in alerts()} == {"page", "ticket"}


def promtool(*arguments: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("PROMTOOL IS MISSING: the alerts are not tested")
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_configuration_and_the_alerts_do_what_they_say() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("test", "rules", "alerts_test.yml")


def test_promtool_can_read_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    queries = list(values_of("expr", json.loads(DASHBOARD.read_text())))
    filled = [
        query.replace("$service", ".*").replace("$channel", ".*").replace("$__rate_interval", "5m") for query in queries
    ]
    rules = [{"record": f"panel:query:{number}", "expr": query} for number, query in enumerate(filled)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path))


def test_the_deployment_uses_options_variables_and_probes_that_exist() -> None:
    spec = yaml.safe_load(DEPLOYMENT.read_text())["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    options = {option for parameter in start.params for option in parameter.opts}
    assert container["command"][:2] == ["busworker", "start"]
    given = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    assert given.keys() <= options
    address = parse_address(given["--http"], "--http")
    assert container["ports"] == [{"name": "http", "containerPort": address.port}]
    variables = {setting.variable for setting in settings.SETTINGS}
    assert {one["name"] for one in container["env"]} <= variables | {"XDG_RUNTIME_DIR", "XDG_STATE_HOME"}
    assert {container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness")} <= PROBES.keys()
    assert container["readinessProbe"]["exec"]["command"] == ["busworker", "health", "ready"]
    assert "lifecycle" not in container, "no preStop"


def test_the_deployment_ends_in_time_and_can_write_where_it_must() -> None:
    spec = yaml.safe_load(DEPLOYMENT.read_text())["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert (
        spec["terminationGracePeriodSeconds"] >= float(container["args"][container["args"].index("--grace") + 1]) + 15
    )
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"] for volume in spec["volumes"] if "emptyDir" in volume}
    folders = {one["value"] for one in container["env"] if one["name"].startswith("XDG_")}
    assert {mounted[folder] for folder in folders} <= volumes
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
