"""Dead letters as people read them. Whatever a message holds is escaped."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager

import click
import msgspec

from busworker.cli.output import cell, encoded, formatted, print_json_array, print_table, shortened, size
from busworker.cli.progress import counting
from busworker.groups import By, Group
from busworker.letters import UNROUTED, DeadLetter
from busworker.outcome import WorkerInfo
from busworker.pace import Pace
from busworker.plain import escaped_json, escaped_lines, shell_word

ERROR_WIDTH = 120
"""Characters of an error in a list; a terminal may have room for fewer."""
PAGE = 1000
"""Lines of a table that are held until they are printed, for the width of its columns."""


def print_list(letters: Iterable[DeadLetter], limit: int | None = None) -> None:
    """A table, a letter a line, printed as they come; without letters only its head. `limit`: of those to come."""
    heads = ("ID", "SUBSCRIPTION", "REASON", "ATTEMPTS", "DEAD AT", "ERROR")
    print_table(heads, (_row(one) for one in letters), min(limit or PAGE, PAGE), spare=(3, 4, 1))


def print_groups(groups: Sequence[Group], by: By) -> None:
    """A table, a group a line; groups of errors with the message of the newest."""
    heads = ("COUNT", "SUBSCRIPTION", by.upper(), "OLDEST", "NEWEST")
    rows = [(one.count, one.subscription or UNROUTED, one.name, one.oldest, one.newest) for one in groups]
    if by == "reason":
        print_table(heads, rows)
    else:
        messages = (None if one.message is None else shortened(one.message, ERROR_WIDTH) for one in groups)
        told = [(*row, text) for row, text in zip(rows, messages, strict=True)]
        print_table((*heads, "NEWEST MESSAGE"), told, spare=(3, 4, 1))


def print_groups_json(groups: Sequence[Group], by: By) -> None:
    """An array of objects, as docs/reference/cli.md has them."""
    print_json_array(
        {
            "subscription": one.subscription,
            by: one.name,
            "count": one.count,
            "oldest": one.oldest,
            "newest": one.newest,
            **({"message": one.message} if by == "error" else {}),
        }
        for one in groups
    )


def print_letter(letter: DeadLetter, *, options: Sequence[str] = ()) -> None:
    """All of it: the envelope, the cause, the headers, the body, and the command that replays it with these options."""
    for name, value in _facts(letter):
        click.echo(f"{name + ':':<14}{cell(value)}")
    if letter.error is not None and letter.error.traceback:
        _block("traceback", letter.error.traceback)
    if letter.headers:
        _block_json("headers", letter.headers)
    if letter.history:
        _block_json("history", letter.history)
    if letter.body is None and letter.body_base64 not in (None, "bnVsbA=="):  # the document null, in base64
        _block("body, no JSON, in base64", letter.body_base64 or "")
    else:
        _block_json("body", letter.body)
    if letter.id is not None:
        words = ("busworker", "dead", "replay", "--id", letter.id, letter.subscription or UNROUTED, *options)
        click.echo(f"\nto replay it:\n  {' '.join(map(shell_word, words))}")


@contextmanager
def counted(done: str, pace: Pace, *, as_json: bool) -> Generator[Pace]:
    """Shows on a terminal how many have gone, and prints it at the end, however it ends."""
    try:
        with counting(done) as pace.told:
            yield pace
    finally:
        click.echo(escaped_json(encoded({done: pace.done}).decode()) if as_json else f"{done} {pace.done}")


def _row(letter: DeadLetter) -> tuple[object, ...]:
    place = letter.subscription or f"unrouted {letter.topic}"
    return letter.id, place, letter.reason, letter.attempts, letter.dead_at, _cause(letter, ERROR_WIDTH)


def _facts(letter: DeadLetter) -> list[tuple[str, object]]:
    return [
        ("id", letter.id),
        ("subscription", letter.subscription),
        ("topic", letter.topic),
        ("reason", letter.reason),
        ("attempts", letter.attempts),
        ("published at", letter.published_at),
        ("dead at", letter.dead_at),
        ("error", _cause(letter, None)),
        ("worker", _worker(letter.worker)),
    ]


def _cause(letter: DeadLetter, width: int | None) -> str | None:
    if letter.error is None:
        return None
    text = f"{letter.error.type or '?'}: {letter.error.message or ''}".rstrip(": ")
    return text if width is None else shortened(text, width)


def _worker(worker: WorkerInfo | None) -> str | None:
    if worker is None:
        return None
    known = {**msgspec.structs.asdict(worker), "rss": size(worker.rss)}
    facts = (f"{name} {value}" for name, value in known.items() if value is not None)
    return ", ".join(facts) or None


def _block(title: str, text: str) -> None:
    click.echo(f"\n{title}:")
    for line in escaped_lines(text.rstrip("\n")):
        click.echo(f"  {line}")


def _block_json(title: str, value: object) -> None:
    click.echo(f"\n{title}:")
    for line in formatted(value).split("\n"):
        click.echo(f"  {line}")
