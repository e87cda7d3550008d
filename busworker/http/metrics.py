"""The metrics of a service, as Prometheus reads them; docs/reference/metrics.md says what each means.

What a pool counts is read from its `Tally`, which outlives consumers, workers and this process. What the supervisor
knows it has told; where it didn't, or a consumer didn't tell it in time, those metrics are missing, and two say so.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path

import msgspec
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily as Histogram
from prometheus_client.core import InfoMetricFamily as Info
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from busworker import __version__
from busworker.ipc import tally
from busworker.jobs import HttpJob
from busworker.names import subscription_name
from busworker.settlement import REASONS

STATES = ("starting", "running", "paused", "failing", "draining")
WORKER_STATES = ("starting", "idle", "executing", "stopping")
PROCESSES = ("consumer", "worker")
CAUSES = ("exit", "signal", "time_limit", "memory_limit", "killed")
FAILED = (*tally.RETRIED, "rejected")
"""Why an attempt fails: what is `invalid` or `unhandled` wasn't executed."""
MOST_FORMATS = 3
_VERSIONS, _NUMBER = re.compile("version=([^;,]*)"), re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}")


class Worker(msgspec.Struct):
    """A worker, as `status` tells it; `slot` counts from 1."""

    slot: int
    state: str
    rss: int | None


class Channel(msgspec.Struct):
    """A channel, as `status` tells it; None is unknown."""

    name: str
    state: str
    processes: int
    ready: int | None
    in_flight: int | None
    waiting: int | None
    dead: int | None
    workers: list[Worker]


class Pool(msgspec.Struct):
    """What only the supervisor knows: see `busworker.supervisor.metrics`."""

    consumer_up: bool
    paused: bool
    counts_known: bool
    oldest: int | None
    starts: dict[str, int]
    deaths: list[tuple[str, str, int]]


class Status(msgspec.Struct):
    """The part of `status` that is needed here."""

    channels: list[Channel]


class Report(msgspec.Struct):
    """The supervisor's answer to `metrics`."""

    status: Status
    started_at: float
    ready: bool
    pools: dict[str, Pool]


class Page:
    """The metrics of one moment.

    Args:
        job: what they are made from.
        answer: what the supervisor said to `metrics`; None: nothing.
        spooled: how many messages the spool holds; None: nobody knows, or there is none.
    """

    def __init__(self, job: HttpJob, answer: object, spooled: int | None) -> None:
        report = None if answer is None else msgspec.convert(answer, Report)
        self._snapshot = Snapshot(job, report, spooled)
        self._texts: dict[str, bytes] = {}

    def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format that a client takes, and its content type. Each format is written out once.

        Args:
            accept: the client's header; there are as many formats as versions that it can name.
        """
        encode, content_type = choose_encoder(readable(accept))
        if content_type not in self._texts and len(self._texts) >= MOST_FORMATS:
            encode, content_type = choose_encoder("")
        if content_type not in self._texts:
            self._texts[content_type] = encode(self._snapshot)
        return self._texts[content_type], content_type


def readable(accept: str) -> str:
    """The header, or none if a version in it is no number. Pure.

    prometheus_client raises at such a version, or says it again, as it is, in the head of the answer.
    """
    versions = (version.strip() for version in _VERSIONS.findall(accept))
    return accept if all(map(_NUMBER.fullmatch, versions)) else ""


class Snapshot(Collector):
    """The metrics of now, by what the supervisor has told; None: nothing."""

    def __init__(self, job: HttpJob, report: Report | None, spooled: int | None) -> None:
        self._job = job
        self._service = job.service.name
        self._report = report
        self._spooled = spooled

    def collect(self) -> Iterable[Metric]:
        """All of them, for prometheus_client."""
        yield from self._counted()
        up = Gauge("busworker_supervisor_up", "Whether the supervisor has answered.", labels=["service"])
        up.add_metric([self._service], float(self._report is not None))
        yield up
        yield self._info()
        yield from self._disks()
        if self._report is not None:
            yield from self._told(self._report)

    def _info(self) -> Metric:
        text = "Which busworker, Python and instance this is."
        info = {"version": __version__, "python": platform.python_version(), "instance_name": self._job.instance}
        return Info("busworker", text, value={"service": self._service, **info})

    def _disks(self) -> Iterator[Metric]:
        free = Gauge("busworker_disk_free_bytes", "Free space where messages are kept.", labels=["service", "place"])
        for place, folder in (("bus", self._job.bus), ("spool", self._job.spool)):
            if folder is not None and (number := free_bytes(folder)) is not None:
                free.add_metric([self._service, place], number)
        yield free
        spooled = Gauge("busworker_spool_messages", "Messages that wait for the broker.", labels=["service"])
        if self._spooled is not None:
            spooled.add_metric([self._service], self._spooled)
        yield spooled

    # What the pools have counted

    def _counted(self) -> Iterator[Metric]:
        labels = ["service", "channel", "subscription"]
        reasoned = [*labels, "reason"]
        processed = Counter("busworker_processed", "Executions that returned.", labels=labels)
        failed = Counter("busworker_failed", "Executions that didn't return, by reason.", labels=reasoned)
        retried = Counter("busworker_retried", "Messages put into a retry queue.", labels=reasoned)
        dead = Counter("busworker_dead_lettered", "Messages that became dead letters.", labels=reasoned)
        given_back = Counter("busworker_given_back", "Messages given back uncharged.", labels=labels)
        for names, pool, number in self._subscriptions():
            counts = pool.counted(number)
            processed.add_metric(names, counts["processed"])
            given_back.add_metric(names, counts["given_back"])
            for reason in FAILED:
                attempts = counts.get(f"retried {reason}", 0) + counts[f"dead {reason}"]
                failed.add_metric([*names, reason], attempts)
            for reason in tally.RETRIED:
                retried.add_metric([*names, reason], counts[f"retried {reason}"])
            for reason in REASONS:
                dead.add_metric([*names, reason], counts[f"dead {reason}"])
        yield from (processed, failed, retried, dead, given_back)
        yield from self._times(labels)

    def _times(self, labels: list[str]) -> Iterator[Metric]:
        handler = Histogram("busworker_handler_seconds", "How long handlers took.", labels=labels)
        waiting = Histogram("busworker_waiting_seconds", "How long messages were ready.", labels=labels)
        for names, pool, number in self._subscriptions():
            for family, found in ((handler, pool.handler_times(number)), (waiting, pool.waiting_times(number))):
                bounds = (*map(str, tally.BOUNDS), "+Inf")
                buckets = list(zip(bounds, accumulate(found.buckets), strict=True))
                family.add_metric(names, buckets, found.sum)
        yield from (handler, waiting)

    def _subscriptions(self) -> Iterator[tuple[list[str], tally.Tally, int]]:
        for channel in self._job.service.channels:
            for number, one in enumerate(channel.subscriptions):
                subscription = subscription_name(one.topic, self._service, channel.name)
                yield [self._service, channel.name, subscription], self._job.tallies[channel.name], number

    # What the supervisor has told

    def _told(self, report: Report) -> Iterator[Metric]:
        start = Gauge("busworker_start_time_seconds", "When the service started, Unix time.", labels=["service"])
        start.add_metric([self._service], report.started_at)
        ready = Gauge("busworker_ready", "Whether /readyz says so.", labels=["service"])
        ready.add_metric([self._service], float(report.ready))
        yield from (start, ready)
        yield from self._messages(report)
        yield from self._channels(report)
        yield from self._workers(report)
        yield from self._processes(report)

    def _messages(self, report: Report) -> Iterator[Metric]:
        texts = {
            "ready": "Messages that wait for a worker.",
            "in_flight": "Messages that the consumer holds.",
            "waiting": "Messages in retry queues.",
            "dead": "Dead letters.",
        }
        for state, text in texts.items():
            family = Gauge(f"busworker_{state}_messages", text, labels=["service", "channel"])
            for channel in report.status.channels:
                if (number := getattr(channel, state)) is not None:
                    family.add_metric([self._service, channel.name], number)
            yield family
        yield self._age(report)

    def _age(self, report: Report) -> Metric:
        text = "How long the oldest message without a worker has waited."
        family = Gauge("busworker_oldest_message_age_seconds", text, labels=["service", "channel"])
        for channel in report.status.channels:
            oldest = report.pools[channel.name].oldest
            if oldest is not None:
                family.add_metric([self._service, channel.name], max(0.0, time.time() - oldest))
            elif channel.ready == 0:
                family.add_metric([self._service, channel.name], 0.0)
        return family

    def _channels(self, report: Report) -> Iterator[Metric]:
        labels = ["service", "channel"]
        state = Gauge("busworker_channel_state", "1 for the state that it is in.", labels=[*labels, "state"])
        desired = Gauge("busworker_workers_desired", "How many workers there should be.", labels=labels)
        for channel in report.status.channels:
            names = [self._service, channel.name]
            desired.add_metric(names, channel.processes)
            for name in STATES:
                state.add_metric([*names, name], float(channel.state == name))
        yield from (state, desired)
        up = Gauge("busworker_consumer_up", "Whether it fetches from every subscription.", labels=labels)
        paused = Gauge("busworker_paused", "Whether somebody has paused the channel.", labels=labels)
        known = Gauge("busworker_counts_known", "Whether the queues could be counted in time.", labels=labels)
        for channel_name, pool in report.pools.items():
            names = [self._service, channel_name]
            up.add_metric(names, float(pool.consumer_up))
            paused.add_metric(names, float(pool.paused))
            known.add_metric(names, float(pool.counts_known))
        yield from (up, paused, known)

    def _workers(self, report: Report) -> Iterator[Metric]:
        labels = ["service", "channel"]
        workers = Gauge("busworker_workers", "Workers by what they do.", labels=[*labels, "state"])
        rss = Gauge("busworker_worker_resident_memory_bytes", "Resident memory of a worker.", labels=[*labels, "slot"])
        for channel in report.status.channels:
            names = [self._service, channel.name]
            states = [worker.state for worker in channel.workers]
            for state in WORKER_STATES:
                workers.add_metric([*names, state], states.count(state))
            for worker in channel.workers:
                if worker.rss is not None:
                    rss.add_metric([*names, str(worker.slot)], worker.rss)
        yield from (workers, rss)

    def _processes(self, report: Report) -> Iterator[Metric]:
        labels = ["service", "channel", "process"]
        starts = Counter("busworker_process_starts", "Processes started.", labels=labels)
        deaths = Counter("busworker_process_deaths", "Processes that died.", labels=[*labels, "cause"])
        for channel, pool in report.pools.items():
            died = {(process, cause): number for process, cause, number in pool.deaths}
            for process in PROCESSES:
                starts.add_metric([self._service, channel, process], pool.starts.get(process, 0))
                for cause in CAUSES:
                    deaths.add_metric([self._service, channel, process, cause], died.get((process, cause), 0))
        yield from (starts, deaths)


def free_bytes(folder: Path) -> int | None:
    """What this user may still write to the disk of a folder; None: it isn't there yet."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize
