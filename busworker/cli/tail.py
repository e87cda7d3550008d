"""`busworker tail`: events as they are published, beside those who subscribe to them."""

from __future__ import annotations

import logging
import math
import select
import shutil
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING

import click

from busworker import settings
from busworker.brokers import parse
from busworker.cli.ending import complain, end_orderly
from busworker.cli.options import app_option, broker_option, checked, json_option
from busworker.cli.output import cell, print_json_line
from busworker.cli.reach import application
from busworker.errors import BrokerUnavailable
from busworker.message import Delivery
from busworker.names import checked_pattern
from busworker.plain import escaped
from busworker.published import read_published
from busworker.uninterrupted import UNINTERRUPTED

if TYPE_CHECKING:
    from busworker.broker.session import Session

log = logging.getLogger("busworker.cli")

WINDOW = 200
"""Events that are fetched and not shown yet."""
AGAIN = 1.0
"""Seconds between two tries to connect."""
TELL_EVERY = 1.0
"""Seconds between two lines that say what was missed."""
LONGEST, LEAST = 200, 20
"""Characters of a line where stdout is no terminal, and of a body where the line has no room for it."""
UNKEPT = " (what nobody subscribes to isn't kept as unrouted meanwhile)"
"""RabbitMQ knows no queue that doesn't count as a subscriber."""


@click.command()
@click.argument("topic", type=checked(checked_pattern), metavar="TOPIC|PATTERN")
@broker_option
@app_option
@click.option("--limit", type=click.IntRange(1), metavar="N", help="End after so many.")
@json_option
def tail(topic: str, broker: str | None, app: str | None, limit: int | None, as_json: bool) -> None:
    """Show events as they are published, from now on, until Ctrl-C.

    It takes them from nobody. A PATTERN has * for one word and # for any number, as in 'user.*'. With --json each
    event is a line.
    """
    end_orderly()
    bus = application(app)
    url = settings.broker_of(bus.broker if bus else None, broker)
    parse(url)
    show = _show_json if as_json else _show
    with closing(_heard(url, topic)) as heard:
        for number, delivery in enumerate(heard, 1):
            show(delivery)
            if number == limit:
                return


def _heard(url: str, topic: str) -> Generator[Delivery]:
    """What is published, over all connections.

    Raises:
        BrokerUnavailable: the first connection can't be had; others are tried until there is one.
        BrokenPipeError: nobody reads our output any more.
    """
    session = _listening(url, topic)
    complain(f"listening to {topic!r} on {session.broker}{'' if session.broker.embedded else UNKEPT}; Ctrl-C ends it")
    while True:
        try:
            with closing(session):
                yield from _deliveries(session)
        except BrokerUnavailable as error:
            complain(f"{error}; trying again, and what is published meanwhile isn't shown")
        session = _again(url, topic)
        complain(f"listening to {topic!r} again")


def _listening(url: str, topic: str) -> Session:
    from busworker.broker.session import open_session  # so that --help stays quick

    session = open_session(url, create=False, heartbeats=True)
    try:
        session.declare()
        session.listen(topic, WINDOW)
    except BaseException:
        session.close()
        raise
    return session


def _again(url: str, topic: str) -> Session:
    while True:
        _wait({}, AGAIN)
        try:
            return _listening(url, topic)
        except BrokerUnavailable as error:
            log.debug("%s", error)


def _deliveries(session: Session) -> Generator[Delivery]:
    from busworker.broker.session import Settled

    missed, tell_at = 0, time.monotonic()
    while True:
        with UNINTERRUPTED:
            session.keep_alive()
            arrived = session.fetch(WINDOW)
        yield from arrived
        with UNINTERRUPTED:
            session.submit([Settled(delivery.tag, "ack") for delivery in arrived])
            session.concluded()
        if time.monotonic() >= tell_at:
            missed, tell_at = _told(session, missed), time.monotonic() + TELL_EVERY
        _wait(session.filenos(), 0 if arrived else session.next_due())


def _told(session: Session, before: int) -> int:
    """Says how many more events than `before` were missed; how many in all."""
    with UNINTERRUPTED:
        missed = session.missed() or 0
    if missed > before:
        complain(f"{missed - before} events were not shown: they came faster than they could be")
    return missed


def _wait(descriptors: Mapping[int, bool], seconds: float) -> None:
    """Waits until something can be read there, or written where that is wanted.

    Raises:
        BrokenPipeError: nobody reads our output any more; a write would tell only when there is something to show.
    """
    poll, output = select.poll(), sys.stdout.fileno()
    for descriptor, writes in descriptors.items():
        poll.register(descriptor, select.POLLIN | (select.POLLOUT if writes else 0))
    poll.register(output, 0)  # errors are always told (poll(2))
    if any(descriptor == output for descriptor, _ in poll.poll(math.ceil(seconds * 1000))):
        raise BrokenPipeError


def _show(delivery: Delivery) -> None:
    event = read_published(delivery)
    moment = event.published_at and event.published_at.replace(".000", "")  # always 0: AMQP has whole seconds
    head = "  ".join(map(cell, (moment, event.topic, event.id)))
    click.echo(f"{head}  {_shortened(delivery.body, _width() - len(head) - 2)}")


def _show_json(delivery: Delivery) -> None:
    print_json_line(read_published(delivery))


def _width() -> int:
    """Characters of a line."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else LONGEST


def _shortened(body: bytes, width: int) -> str:
    width = max(width, LEAST)
    text = escaped(body[: width * 4].decode(errors="replace"))  # no character has more bytes
    return text if len(text) <= width and len(body) <= width * 4 else f"{text[: width - 1]}…"
