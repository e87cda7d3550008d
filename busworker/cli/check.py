"""`busworker check`: imports an application and shows what it declares."""

from __future__ import annotations

import click

from busworker import settings
from busworker.application import load, require_channels
from busworker.brokers import parse
from busworker.bus import Bus
from busworker.channel import Channel, Subscription, name_of
from busworker.cli.ending import complain
from busworker.cli.options import app_of, broker_option, require_app
from busworker.cli.output import cell, duration, print_table, size
from busworker.errors import BrokerError
from busworker.urls import hide_password


@click.command()
@click.argument("app", required=False)
@click.option("--app", "app_option", metavar="APP", hidden=True)
@broker_option
@click.option("--store", is_flag=True, help="Check the embedded store instead, all of it; services may go on.")
@click.option("--repair", is_flag=True, help="With --store: repair what is wrong. A damaged file is kept.")
def check(app: str | None, app_option: str | None, broker: str | None, store: bool, repair: bool) -> None:
    """Import APP and show its channels, subscriptions and limits. No broker is needed.

    An embedded store that is there is looked at: queues of this service that nobody serves any more are named.

    With --store: check that the file of the embedded store is sound and doesn't contradict itself.
    """
    if repair and not store:
        raise click.UsageError("--repair goes with --store")
    if store:
        from busworker.cli.store import check_store  # the rest needs no broker

        where = app_of(app or app_option)
        check_store(settings.broker_of(load(where).broker if where else None, broker), repair=repair)
        return
    bus = load(require_app(app or app_option))
    require_channels(bus)
    url = settings.broker_of(bus.broker, broker)
    embedded = parse(url)[0].embedded
    click.echo(f"service {bus.name}")
    click.echo(f"broker  {cell(hide_password(url))}")
    for channel in bus.channels.values():
        _show(bus, channel)
    if embedded:
        _show_orphans(url, bus)


def _show_orphans(url: str, bus: Bus) -> None:
    """The queues of this service in an embedded store that it serves no more; a store that isn't there has none."""
    from busworker.transports import store_exists  # without a store nothing more is loaded

    if not store_exists(url):
        return
    from busworker.broker.session import open_session
    from busworker.subscriptions import orphan_line, orphaned

    try:
        session = open_session(url, create=False)
        try:
            lines = [orphan_line(name, left) for name, left in orphaned(session, bus.spec)]
        finally:
            session.close()
    except BrokerError as error:
        complain(f"whether the store has queues that nobody serves any more can't be told: {error}")
        return
    for line in lines:
        click.echo(f"\n{cell(line)}")


def _show(bus: Bus, channel: Channel) -> None:
    spec = channel.spec
    limits = [f"processes {spec.processes}", f"concurrency {spec.concurrency}"]
    limits += [f"memory limit {size(spec.memory_limit)}"] if spec.memory_limit else []
    limits += [f"recycled after {spec.max_messages} messages"] if spec.max_messages else []
    click.echo(f"\nchannel {bus.name}.{spec.name}: {', '.join(limits)}")
    heads = ("TOPIC", "HANDLER", "ATTEMPTS", "TIME LIMIT", "KILL AFTER", "DELAYS")
    print_table(heads, [_row(subscription) for subscription in channel.subscriptions])


def _row(subscription: Subscription) -> tuple[object, ...]:
    spec = subscription.spec
    delays = ", ".join(f"{delay:g}" for delay in spec.delays)
    limits = duration(spec.time_limit), duration(spec.kill_after)
    return spec.topic, name_of(subscription.handler), spec.max_attempts, *limits, f"{delays} s"
