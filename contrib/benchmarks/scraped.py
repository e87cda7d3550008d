"""What a real Prometheus sees of a service: 50 topics, many messages, failures, and processes killed all the time.

    python contrib/benchmarks/scraped.py [--messages 100000] [--kill 5000]

It scrapes each second, with the configuration and the alerts of `contrib/prometheus`. Wanted: as many series at the end
as at the start, no counter that goes back, and every message accounted for.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from busworker import Bus, Pattern, RetryPolicy, Topic

CONTRIB = Path(__file__).parents[1] / "prometheus"
TOPICS, CHANNELS = 50, 5
SERVICE, PROMETHEUS = "127.0.0.1:19100", "127.0.0.1:19090"
WAIT = 300.0
SERIES = 'count({__name__=~"busworker_.+"})'
LEFT = "sum(busworker_ready_messages) + sum(busworker_in_flight_messages) + sum(busworker_waiting_messages)"

topics = [Topic(f"topic{number}.made", dict[str, int]) for number in range(TOPICS)]
bus = Bus("scraped")


def work(event: dict[str, int]) -> None:
    """Fails now and then, or ends its process."""
    if event["n"] % 500 == 0:
        raise ValueError("as told")
    if event["n"] % 20_000 == 7:
        os._exit(3)


for number, topic in enumerate(topics):
    bus.channels.get(f"c{number % CHANNELS}") or bus.channel(f"c{number % CHANNELS}", processes=2)
    bus.channels[f"c{number % CHANNELS}"].subscribe(topic, retry=RetryPolicy(2, delays=(0,)))(work)


@bus.channel("audit").subscribe(Pattern("#"))
def audit(event: object) -> None:
    """Gets all."""


def api(path: str, **query: str) -> Any:
    """What Prometheus answers."""
    with urlopen(f"http://{PROMETHEUS}/api/v1/{path}?{urlencode(query)}", timeout=10) as answer:
        return json.load(answer)["data"]


def value(query: str) -> float:
    """The only value of a query; 0 if there is none."""
    found = api("query", query=query)["result"]
    return float(found[0]["value"][1]) if found else 0.0


def by(label: str, query: str) -> dict[str, float]:
    """The values of a query by a label."""
    return {one["metric"][label]: float(one["value"][1]) for one in api("query", query=query)["result"]}


def until(done: Callable[[], bool], what: str) -> None:
    """Waits for that."""
    end = time.monotonic() + WAIT
    while True:
        try:
            if done():
                return
        except OSError:  # it isn't up yet, or just killed
            pass
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {WAIT:g} s")
        time.sleep(0.2)


def children(service: subprocess.Popen[bytes], role: str) -> list[int]:
    """The service's processes of a role."""
    found = subprocess.run(
        ["ps", "--ppid", str(service.pid), "-o", "pid=,args="], capture_output=True, text=True, check=True
    )
    lines = (line.split(None, 1) for line in found.stdout.splitlines())
    return [int(pid) for pid, title in lines if title.startswith(f"busworker: {role} ")]


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The service, and Prometheus that scrapes it."""
    text = (CONTRIB / "prometheus.yml").read_text().replace("15s", "1s")
    (folder / "prometheus.yml").write_text(re.sub("targets: .*", f"targets: ['{SERVICE}']", text))
    shutil.copy(CONTRIB / "alerts.yml", folder)
    commands = (
        [sys.executable, "-m", "busworker", "start", __file__, "--http", SERVICE],
        [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/tsdb",
            f"--web.listen-address={PROMETHEUS}",
        ],
    )
    with (folder / "log").open("ab") as log:
        service, prometheus = (subprocess.Popen(command, stderr=log) for command in commands)
    try:
        until(lambda: value("busworker_ready") == 1, "a ready service in Prometheus")
        yield service
    finally:
        for process in (service, prometheus):
            process.terminate()
            process.wait(60)


def publish(service: subprocess.Popen[bytes], messages: int, every: int) -> None:
    """Publishes, and kills one process of ours for every so many messages."""
    sender = Bus("sender")
    for number in range(messages):
        sender.publish(topics[number % TOPICS], {"n": number})
        if number % every == every - 1:
            sender.flush(WAIT)
            victims = children(service, random.choice(["worker", "worker", "consumer", "http"]))
            if victims:
                os.kill(random.choice(victims), signal.SIGKILL)
    sender.close()


def tell(service: subprocess.Popen[bytes], before: float, seconds: float) -> None:
    """Prints what there is to see."""
    print(f"series: {before:.0f} at the start, {value(SERIES):.0f} at the end")
    for label in ("subscription", "channel", "slot", "reason", "cause"):
        print(f"  values of {label}: {len(api(f'label/{label}/values'))}")
    counters = ("busworker_processed_total", "busworker_dead_lettered_total", "busworker_handler_seconds_bucket")
    print("counters that went back:", {name: value(f"sum(resets({name}[1h]))") for name in counters})
    print("processed by channel:", by("channel", "sum by (channel) (busworker_processed_total)"))
    print("failed by reason:", by("reason", "sum by (reason) (busworker_failed_total) > 0"))
    counted, there = value("sum(busworker_dead_lettered_total)"), value("sum(busworker_dead_messages)")
    print(f"dead letters: {counted:.0f} counted, {there:.0f} there")
    print("deaths by cause:", by("cause", "sum by (cause) (busworker_process_deaths_total) > 0"))
    scrapes = [value(f"{how}_over_time(scrape_duration_seconds[1h])") * 1000 for how in ("avg", "max")]
    answered = value("avg_over_time(up[1h])")  # it was killed, too
    print(
        f"scrapes: {scrapes[0]:.0f} ms on average, {scrapes[1]:.0f} at most, {answered:.0%} answered; {seconds:.0f} s"
    )
    (pid,) = children(service, "http")
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    memory = re.findall(r"^(?:Rss|Pss|Private_Dirty):\s+\d+ kB", rollup, re.MULTILINE)
    print("memory of the http process:", ", ".join(memory))
    print("alerts:", sorted({one["labels"]["alertname"] for one in api("alerts")["alerts"]}))


def main() -> None:
    """Runs it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--kill", type=int, default=5_000, help="kill a process for every so many messages")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scraped-", dir="/var/tmp"))
    os.environ.update(BUSWORKER_BROKER=f"filesystem://{folder}/bus")
    os.environ["XDG_STATE_HOME"] = os.environ["XDG_RUNTIME_DIR"] = str(folder)
    begun = time.monotonic()
    with running(folder) as service:
        before = value(SERIES)
        publish(service, given.messages, given.kill)
        until(lambda: value("min(busworker_counts_known)") == 1 and value(LEFT) == 0, "the end of all messages")
        time.sleep(3)  # a last scrape
        tell(service, before, time.monotonic() - begun)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
