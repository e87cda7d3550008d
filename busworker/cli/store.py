"""`busworker check --store`: the checkup of the embedded store, and its repair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from busworker.brokers import parse
from busworker.cli.output import size
from busworker.errors import BrokerUnavailable, ConfigurationError

if TYPE_CHECKING:
    from busworker.transports.engine.checkup import Checkup


def check_store(url: str, *, repair: bool) -> None:
    """Checks the store of a broker, tells what was found, and repairs it if wished.

    Raises:
        BrokerUnavailable: there is no store, it can't be read, or it isn't whole (any more).
        ConfigurationError: the broker isn't embedded.
    """
    from busworker.broker.topology import UNROUTED  # so that --help stays quick
    from busworker.transports.engine import checkup, location

    broker = parse(url)[0]
    if not broker.embedded:
        raise ConfigurationError(f"broker {broker} has no store to check: --store is for filesystem:// and memory://")
    where = location.parse(broker.url)
    if not repair:
        found = checkup.check(where)
        _tell(found)
        if not found.whole:
            raise BrokerUnavailable(f"store {where.folder} isn't whole: run `busworker check --store --repair`")
        return
    done = checkup.repair(where, UNROUTED)
    _tell(done.before)
    if done.before.whole:
        return
    if done.damaged:
        click.echo(f"kept      the damaged file as {done.damaged}")
    click.echo("repaired  and checked again:")
    _tell(done.after)
    if not done.after.whole:
        raise BrokerUnavailable(f"store {where.folder} couldn't be repaired: stop what uses it, and move it away")


def _tell(found: Checkup) -> None:
    for line in (*found.damage, *found.contradictions):
        click.echo(f"wrong     {line}")
    if found.queues is not None:
        free = f", {size(found.free)} of it free" if found.free else ""
        state = "whole" if found.whole else "readable"
        click.echo(
            f"{state:10}{found.queues:,} queues, {found.ready:,} messages ready, {found.claimed:,} in flight; "
            f"{size(found.size)}{free}"
        )
