"""`busworker publish`: events from an argument, from stdin, or one a line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

import click

from busworker import settings
from busworker.application import Application, codec_of, load_application
from busworker.brokers import parse
from busworker.bus import Bus
from busworker.cli.ending import complain, end_orderly
from busworker.cli.lines import MOST, Stored, documents, publish_all, read_document
from busworker.cli.options import DURATION, app_of, app_option, broker_option, checked
from busworker.cli.output import cell
from busworker.cli.progress import counting
from busworker.errors import ConfigurationError
from busworker.message import HeaderValue
from busworker.names import checked_topic
from busworker.payload import JSON_CODEC, Codec
from busworker.publisher import Publisher
from busworker.receipt import Receipt

SENDER = "busworker"
"""The service that these messages name as theirs."""


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigurationError(f"{text!r} is no header: write NAME=VALUE")
    return name, value


@click.command()
@click.argument("topic", type=checked(checked_topic), metavar="TOPIC")
@click.argument("document", metavar="[JSON|-]", required=False)
@broker_option
@app_option
@click.option("--id", "message_id", metavar="ID", help="The message's id; else a random one.")
@click.option(
    "--header",
    "headers",
    type=checked(_header),
    metavar="NAME=VALUE",
    multiple=True,
    help="A header of the message (may be given again).",
)
@click.option("--correlation-id", metavar="ID", help="What it belongs to.")
@click.option("--delay", type=DURATION, metavar="DURATION", help="Deliver it only then: seconds, or as in 10m.")
def publish(
    topic: str, document: str | None, broker: str | None, app: str | None, headers: Any, **envelope: Any
) -> None:
    """Publish one JSON document to TOPIC: the argument, or stdin. With -, publish each line of stdin.

    Prints the message's id, or with - how many were stored. With --app the document is checked against the
    topic's type.
    """
    if document == "-" and envelope["message_id"] is not None:
        raise click.UsageError("--id names one message: it can't be used with -")
    end_orderly()  # how many were stored is told even then
    application = None if (where := app_of(app)) is None else load_application(where)
    url = settings.broker_of(application.bus.broker if application else None, broker)
    parse(url)
    check = _codec(application, topic)
    with _sender(url) as bus:
        send = _publishing(bus, topic, dict(headers), envelope)
        if document == "-":
            number = _publish_lines(sys.stdin.buffer, check, send)
        else:
            raw = sys.stdin.buffer.read(MOST) if document is None else document.encode(errors="surrogateescape")
            click.echo(cell(send(read_document(raw, check)).wait().id))
            number = 1
        if number and envelope["delay"] is None:  # a delayed one is routed when it is due
            _warn_if_unrouted(url, topic)


def _publish_lines(stream: BinaryIO, check: Codec[Any], send: Callable[[bytes], Receipt]) -> int:
    stored = Stored()
    try:
        with counting("stored") as told:
            publish_all(documents(stream, check), send, stored, told)
    finally:
        click.echo(stored.count)
    return stored.count


def _publishing(
    bus: Bus, topic: str, headers: dict[str, HeaderValue], envelope: dict[str, Any]
) -> Callable[[bytes], Receipt]:
    return partial(
        bus.publish_body,
        topic,
        id=envelope["message_id"],
        headers=headers,
        delay=envelope["delay"],
        correlation_id=envelope["correlation_id"],
    )


@contextmanager
def _sender(url: str) -> Generator[Bus]:
    logging.getLogger("busworker.publisher").setLevel(logging.CRITICAL)  # its errors come by the receipts
    bus = Bus(SENDER, broker=url)
    publisher = Publisher(url, bus.publish_deadline)  # directly: `--broker` wins over BUSWORKER_BROKER
    bus.use_port(publisher)
    try:
        yield bus
    finally:
        bus.close()


def _codec(application: Application | None, topic: str) -> Codec[Any]:
    if application is None:
        return JSON_CODEC
    codec = codec_of(application, topic)
    if codec is None:
        complain(f"service {application.bus.name} knows no topic {topic!r}: its type isn't checked")
    return codec or JSON_CODEC


def _warn_if_unrouted(url: str, topic: str) -> None:
    from busworker.broker.session import open_session  # so that --help stays quick

    session = open_session(url, create=False)  # while the publisher is open: a memory:// bus lives as long as its users
    try:
        if session.routed(topic) is False:
            complain(f"nobody subscribes to {topic!r}: stored as unrouted (busworker dead list unrouted)")
    finally:
        session.close()
