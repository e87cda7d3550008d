"""`busworker relay`: sends what a publisher has kept in its spool, without the publisher."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from busworker import settings
from busworker.application import load_application
from busworker.brokers import parse
from busworker.bus import Bus
from busworker.cli.ending import CutShort, end_orderly
from busworker.cli.options import app_of, app_option, broker_option, setting_option
from busworker.cli.progress import counting

if TYPE_CHECKING:
    from busworker.broker.session import Session
    from busworker.spool import Spool

PATIENCE = 30.0
"""Seconds for another process that sends from the same spool."""
POLL = 0.2


@click.command()
@setting_option(settings.SPOOL)
@broker_option
@app_option
@click.option("--count", "only_count", is_flag=True, help="Print how many messages are kept, and send none.")
def relay(spool: str | None, broker: str | None, app: str | None, only_count: bool) -> None:
    """Send what a publisher has kept in its spool while the broker couldn't take it, oldest first.

    Publishers with that spool do this by themselves; this is for when none runs any more. Prints how many were sent.
    What can't be sent stays where it is.
    """
    bus = None if (where := app_of(app)) is None else load_application(where).bus
    folder = _folder(spool, bus)
    end_orderly()  # how many were sent is told even then
    from busworker.spool import Spool  # so that --help stays quick

    kept = Spool(folder)
    try:
        if only_count:
            click.echo(kept.count())
            return
        url = settings.broker_of(bus.broker if bus else None, broker)
        parse(url)
        _send(kept, url)
    finally:
        kept.close()


def _folder(option: str | None, bus: Bus | None) -> Path:
    folder = settings.find(settings.SPOOL, option, bus.spool if bus else None)
    if folder is None:
        raise click.UsageError(f"which spool? Give {settings.SPOOL.option} FOLDER, or --app with a Bus(spool=…)")
    return Path(folder)


def _send(kept: Spool, url: str) -> None:
    from busworker.broker.session import open_session

    sent = 0
    try:
        if kept.count():
            session = open_session(url)
            try:
                session.declare()
                with counting("sent") as told:
                    for number in _rounds(kept, session):
                        sent += number
                        told(sent)
            finally:
                session.close()
    finally:
        click.echo(sent)


def _rounds(kept: Spool, session: Session) -> Generator[int]:
    """Sends until the spool is empty; how many each time.

    Raises:
        BrokerUnavailable: the broker takes no more.
        CutShort: another process sends from this spool, and doesn't come to an end.
    """
    until = time.monotonic() + PATIENCE
    while left := kept.count():
        number = kept.relay(session.publish)
        if number:
            yield number
            until = time.monotonic() + PATIENCE
        elif time.monotonic() >= until:
            raise CutShort(f"{left} messages are left in {kept.folder}: another process sends from there")
        else:
            time.sleep(POLL)
