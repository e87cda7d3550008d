"""`busworker dead import`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader
from typing import TYPE_CHECKING

import click

from busworker import settings
from busworker.cli.ending import end_orderly
from busworker.cli.lines import Stored
from busworker.cli.options import app_option, broker_option
from busworker.cli.progress import counting
from busworker.cli.reach import application
from busworker.errors import DecodeError, EncodeError
from busworker.pace import BATCH
from busworker.payload import MAX_BODY
from busworker.uninterrupted import UNINTERRUPTED

if TYPE_CHECKING:
    from busworker.broker.session import Session
    from busworker.message import Outgoing

CHUNK = 1024 * 1024
LONGEST = 8 * MAX_BODY
"""Bytes of a line: it has the body in base64, and as JSON in which a character may be written with six."""
PATIENCE = 10.0
"""Seconds for the broker to confirm a batch. A signal waits for that, so that the number is right."""


@click.command("import")
@click.argument("file", type=click.File("rb"), metavar="[FILE|-]", default="-")
@broker_option
@app_option
def import_(file: BufferedReader, broker: str | None, app: str | None) -> None:
    """Put back dead letters that were exported.

    Takes the lines of FILE, or of stdin, as dead export prints them. Prints how many were stored.
    """
    end_orderly()
    from busworker.broker.session import open_session  # so that --help stays quick

    bus = application(app)
    session = open_session(settings.broker_of(bus.broker if bus else None, broker))
    importer = _Importer(session)
    try:
        session.declare()
        with counting("stored") as importer.told:
            for batch in _batches(file):
                importer.add(batch)
    finally:
        click.echo(importer.stored.count)
        session.close()


class _Importer:
    """Stores lines of an export, batch by batch; `told` gets the number of those stored."""

    def __init__(self, session: Session) -> None:
        self.stored = Stored()
        self.told: Callable[[int], None] = lambda _: None
        self._session = session
        self._there = set[str]()

    def add(self, batch: Sequence[tuple[int, bytes]]) -> None:
        """Stores numbered lines; up to the first bad one.

        Raises:
            DecodeError: a line is no dead letter; its number is named.
            BrokerUnavailable: not all are stored.
        """
        good, bad = _read(batch)
        with UNINTERRUPTED:
            self._store(good)
        self.told(self.stored.count)
        if bad is not None:
            raise bad

    def _store(self, numbered: Sequence[tuple[int, Outgoing]]) -> None:
        self._declare([one for _, one in numbered])
        found = self._session.publish([one for _, one in numbered], PATIENCE)
        self.stored.count += found.count(None)
        for (number, _), error in zip(numbered, found, strict=True):
            if isinstance(error, EncodeError):
                raise DecodeError(f"line {number}: {error}; up to {BATCH} lines from this one on are stored") from error
            if error is not None:
                raise error

    def _declare(self, outgoing: Sequence[Outgoing]) -> None:
        from busworker.broker import topology
        from busworker.exported import queue_at

        for queue in {queue_at(one) for one in outgoing} - self._there:
            if self._session.counts(queue) is None:
                self._session.declare_dead(queue.removesuffix(topology.DEAD_SUFFIX))
            self._there.add(queue)


def _read(batch: Sequence[tuple[int, bytes]]) -> tuple[list[tuple[int, Outgoing]], DecodeError | None]:
    """The letters up to the first bad line, and what is wrong with that."""
    from busworker.exported import read_line

    good: list[tuple[int, Outgoing]] = []
    for number, line in batch:
        if not line.strip(b" \t\r\n"):
            continue
        try:
            good.append((number, read_line(line)))
        except DecodeError as error:
            return good, DecodeError(f"line {number}: {error}; nothing from this line on was stored")
    return good, None


def _batches(file: BufferedReader) -> Iterator[list[tuple[int, bytes]]]:
    """The lines with their numbers, as soon as they are there.

    Raises:
        DecodeError: one doesn't come to an end.
    """
    number, rest = 0, bytearray()
    while chunk := file.read1(CHUNK):
        rest += chunk
        if b"\n" in chunk:
            *lines, rest = rest.split(b"\n")
            for at in range(0, len(lines), BATCH):
                yield [(number + at + place, bytes(line)) for place, line in enumerate(lines[at : at + BATCH], 1)]
            number += len(lines)
        elif len(rest) > LONGEST:
            raise DecodeError(f"line {number + 1} has more than {LONGEST:,} bytes; nothing from it on was stored")
    if rest:
        yield [(number + 1, bytes(rest))]
