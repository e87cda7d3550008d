"""The status of a service as people read it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import click
import msgspec

from busworker.cli.output import age, cell, print_fitting, size

CHANNEL_HEADS = (
    *("CHANNEL", "STATE", "BUSY", "READY", "OLDEST", "RATE", "WAITING", "DEAD", "FAILED", "PROCESSED", "IN FLIGHT"),
)
"""The last ones go first where the terminal is narrow."""


class Worker(msgspec.Struct):
    """A worker, as `status` tells it."""

    slot: int
    pid: int | None
    state: str
    message: str | None
    since: datetime | None
    rss: int | None


class LastError(msgspec.Struct):
    """What failed last in a channel."""

    at: datetime
    subscription: str
    message: str | None
    attempt: int
    max_attempts: int
    error: str


class Channel(msgspec.Struct):
    """A channel, as `status` tells it; None is unknown."""

    name: str
    state: str
    processes: int
    ready: int | None
    in_flight: int | None
    waiting: int | None
    dead: int | None
    processed: int | None
    failed: int | None
    subscriptions: list[str]
    workers: list[Worker]
    trouble: str | None = None
    paused_until: str | None = None
    oldest: datetime | None = None
    rate: float | None = None
    last_error: LastError | None = None


class Spool(msgspec.Struct):
    """The spool of the service's bus; `messages` is None where they can't be counted."""

    folder: str
    messages: int | None


class Status(msgspec.Struct):
    """The answer to `status` (docs/reference/cli.md, `--json`)."""

    service: str
    instance: str
    broker: str
    state: str
    pid: int
    started_at: datetime | None
    channels: list[Channel]
    spool: Spool | None = None


def show(status: Status, now: datetime) -> None:
    """Prints it: a line about the service, a table of its channels, what is wrong with them, a table of its workers.

    Args:
        status: of a service.
        now: what ages are told from.
    """
    click.echo(
        f"service {cell(status.service)}: {cell(status.state)}, instance {cell(status.instance)}, "
        f"pid {status.pid}, up {cell(_age(status.started_at, now))}"
    )
    click.echo(f"broker {cell(status.broker)}\n")
    print_fitting(CHANNEL_HEADS, [_channel(channel, now) for channel in status.channels])
    for channel in status.channels:
        for remark in _remarks(channel, now):
            click.echo(f"\n{cell(channel.name)}: {cell(remark)}")
    if status.spool is not None and status.spool.messages != 0:
        number = "?" if status.spool.messages is None else f"{status.spool.messages:,}"
        click.echo(f"\nspool {cell(status.spool.folder)}: {number} messages wait until they can be sent")
    click.echo()
    rows = [_worker(channel, worker, now) for channel in status.channels for worker in channel.workers]
    print_fitting(("WORKER", "PID", "STATE", "FOR", "RSS", "MESSAGE"), rows)


def _channel(channel: Channel, now: datetime) -> tuple[object, ...]:
    busy = sum(worker.state == "executing" for worker in channel.workers)
    rate = None if channel.rate is None else f"{channel.rate:g}/s"
    urgent = (channel.ready, _age(channel.oldest, now), rate, channel.waiting, channel.dead)
    rest = (channel.failed, channel.processed, channel.in_flight)
    return channel.name, channel.state, f"{busy}/{channel.processes}", *urgent, *rest


def _remarks(channel: Channel, now: datetime) -> Iterator[str]:
    if channel.trouble:
        yield channel.trouble
    if channel.paused_until:
        yield f"paused until {channel.paused_until}"
    if (last := channel.last_error) is not None:
        what = f"message {last.message} of {last.subscription}, attempt {last.attempt}/{last.max_attempts}"
        yield f"last error {_age(last.at, now)} ago: {what}: {last.error}"


def _worker(channel: Channel, worker: Worker, now: datetime) -> tuple[object, ...]:
    name = f"{channel.name}/{worker.slot}"
    return name, worker.pid, worker.state, _age(worker.since, now), size(worker.rss), worker.message


def _age(since: datetime | None, now: datetime) -> str | None:
    return None if since is None else age((now - since).total_seconds())
