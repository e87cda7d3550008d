"""What commands print: tables for people, JSON for programs. Control characters in either are escaped."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Iterable, Sequence

import click
import msgspec

from busworker.plain import escaped, escaped_json

LEAST = 20
"""Characters of a cut column, however narrow the terminal is."""
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def print_json(value: object) -> None:
    """A document over several lines; what UTF-8 can't carry is shown as `?`."""
    click.echo(formatted(value))


def print_json_line(value: object) -> None:
    """A document in one line."""
    click.echo(escaped_json(encoded(value).decode()))


def print_json_array(values: Iterable[object]) -> None:
    """An array over several lines, each value as soon as it is there."""
    before = "["
    for value in values:
        text = formatted(value).replace("\n", "\n  ")
        click.echo(f"{before}\n  {text}", nl=False)
        before = ","
    click.echo("[]" if before == "[" else "\n]")


def formatted(value: object) -> str:
    """A value as JSON over several lines."""
    return msgspec.json.format(escaped_json(encoded(value).decode()), indent=2)


def encoded(value: object) -> bytes:
    """A value as JSON, lone surrogates replaced."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_clean(msgspec.to_builtins(value)))


def print_fitting(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table as `print_table` prints it, without the last columns that a terminal has no room for."""
    lines = [list(heads), *([cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    kept, room = len(widths), _room()
    while room is not None and kept > 1 and sum(widths[:kept]) + 2 * (kept - 1) > room:
        kept -= 1
    print_table(heads[:kept], [row[:kept] for row in rows])


def print_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    page: int | None = None,
    spare: Sequence[int] | None = None,
) -> None:
    """Columns as wide as they need to be, the last one without padding; None is `-`.

    Args:
        heads: of the columns.
        rows: the lines.
        page: how many lines are taken, and printed, at a time, with columns as wide as they need to be up to there;
            None: all.
        spare: where a terminal is too narrow, the columns with these numbers are left out, the first ones first, and
            what is too long then of the last column is cut; None: it may wrap.
    """
    left, room = iter(rows), None if spare is None else _room()
    lines, widths = [list(heads)], [0 for _ in heads]
    columns: Sequence[int] = range(len(heads))
    while True:
        found = [[cell(value) for value in row] for row in itertools.islice(left, page)]
        lines += found
        if lines:
            widths = [max(width, *map(len, column)) for width, *column in zip(widths, *lines, strict=True)]
            if len(lines) > len(found):  # the heads are there, and what they leave out stays out
                columns = fitting(widths, room, spare or ())
            shown = [widths[number] for number in columns]
            click.echo("\n".join(padded([line[number] for number in columns], shown, room) for line in lines))
        if page is None or len(found) < page:
            return
        lines = []


def fitting(widths: Sequence[int], room: int | None, spare: Sequence[int]) -> Sequence[int]:
    """The numbers of the columns for which there is room, if the last one may be cut to `LEAST`."""
    columns = list(range(len(widths)))
    for one in spare:
        least = sum(widths[number] + 2 for number in columns[:-1]) + min(widths[-1], LEAST)
        if room is None or least <= room:
            break
        columns.remove(one)
    return columns


def _room() -> int | None:
    """The columns of the terminal that stdout is; None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def padded(line: Sequence[str], widths: Sequence[int], room: int | None) -> str:
    """A line of a table, the last column cut to what is left of `room`, but not below `LEAST`."""
    *first, last = line
    begin = "".join(f"{text.ljust(width)}  " for text, width in zip(first, widths, strict=False))
    return (begin + (last if room is None else shortened(last, max(room - len(begin), LEAST)))).rstrip()


def shortened(text: str, width: int) -> str:
    """The text, its end cut to that many characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def cell(value: object) -> str:
    """A value for people, in one line."""
    return "-" if value is None else escaped(str(value))


def size(number: object) -> str | None:
    """Bytes for people."""
    if not isinstance(number, int):
        return None
    amount, unit = float(number), 0
    while amount >= 1024 and unit < len(UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f} {UNITS[unit]}"


def duration(seconds: float | None) -> str:
    """Seconds for people; None is `none`."""
    return "none" if seconds is None else f"{seconds:g} s"


def age(seconds: float | None) -> str | None:
    """How long ago something was, or for how long it has been, for people."""
    if seconds is None:
        return None
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0.0):.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def _clean(value: object) -> object:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {_clean(name): _clean(part) for name, part in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case list():
            return [_clean(part) for part in value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case _:
            return value
