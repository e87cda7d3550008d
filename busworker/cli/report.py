"""The status of a service as people read it."""

from __future__ import annotations

import click
import msgspec

from busworker.cli.output import cell, print_table, size


class Worker(msgspec.Struct):
    """A worker, as `status` tells it."""

    slot: int
    pid: int | None
    state: str
    message: str | None
    since: str | None
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
    processed: int | None
    failed: int | None
    subscriptions: list[str]
    workers: list[Worker]
    trouble: str | None = None
    paused_until: str | None = None


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
    started_at: str | None
    channels: list[Channel]
    spool: Spool | None = None


def show(status: Status) -> None:
    """Prints it: a line about the service, a table of its channels, one of its workers."""
    click.echo(
        f"service {cell(status.service)}: {cell(status.state)}, instance {cell(status.instance)}, "
        f"pid {status.pid}, since {cell(status.started_at)}"
    )
    click.echo(f"broker {cell(status.broker)}\n")
    heads = ("CHANNEL", "STATE", "WORKERS", "READY", "IN FLIGHT", "WAITING", "DEAD", "PROCESSED", "FAILED")
    print_table(heads, [_channel(channel) for channel in status.channels])
    for channel in status.channels:
        if channel.trouble:
            click.echo(f"\n{cell(channel.name)}: {cell(channel.trouble)}")
        if channel.paused_until:
            click.echo(f"\n{cell(channel.name)}: paused until {cell(channel.paused_until)}")
    if status.spool is not None and status.spool.messages != 0:
        number = "?" if status.spool.messages is None else f"{status.spool.messages:,}"
        click.echo(f"\nspool {cell(status.spool.folder)}: {number} messages wait until they can be sent")
    click.echo()
    rows = [_worker(channel, worker) for channel in status.channels for worker in channel.workers]
    print_table(("WORKER", "PID", "STATE", "SINCE", "RSS", "MESSAGE"), rows)


def _channel(channel: Channel) -> tuple[object, ...]:
    counts = (channel.ready, channel.in_flight, channel.waiting, channel.dead)
    return channel.name, channel.state, channel.processes, *counts, channel.processed, channel.failed


def _worker(channel: Channel, worker: Worker) -> tuple[object, ...]:
    name = f"{channel.name}/{worker.slot}"
    return name, worker.pid, worker.state, worker.since, size(worker.rss), worker.message
