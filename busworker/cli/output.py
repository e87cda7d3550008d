"""What commands print: tables for people, JSON for programs. Control characters in either are escaped."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from busworker.plain import escaped, escaped_json

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def print_json(value: object) -> None:
    """A document over several lines; what UTF-8 can't carry is shown as `?`."""
    click.echo(formatted(value))


def print_json_line(value: object) -> None:
    """A document in one line."""
    click.echo(escaped_json(encoded(value).decode()))


def formatted(value: object) -> str:
    """A value as JSON over several lines."""
    return msgspec.json.format(escaped_json(encoded(value).decode()), indent=2)


def encoded(value: object) -> bytes:
    """A value as JSON, lone surrogates replaced."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_clean(msgspec.to_builtins(value)))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they need to be, the last one without padding; None is `-`."""
    lines = [list(heads), *([cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


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
