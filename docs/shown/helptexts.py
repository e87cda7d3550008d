"""The help texts that pages show."""

from __future__ import annotations

from collections.abc import Iterator

import click
from click.testing import CliRunner

from busworker.cli.commands import busworker

WIDTH = 78
"""Columns of a help text: what click takes of a terminal with 80."""


def command_names(group: click.Group = busworker, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command that there is, `("dead", "list")`."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*before, name)
        if isinstance(command, click.Group):
            yield from command_names(command, (*before, name))


def help_text(name: tuple[str, ...]) -> str:
    """What `busworker NAME --help` prints in a terminal of 80 columns."""
    done = CliRunner().invoke(busworker, [*name, "--help"], prog_name="busworker", terminal_width=WIDTH)
    return done.output.rstrip("\n")


def shown_command(text: str) -> tuple[str, ...] | None:
    """The command whose help text a block is to be; None if it is something else.

    Raises:
        ValueError: there is no such command.
    """
    words = text.partition("\n")[0].split()
    if words[:2] != ["Usage:", "busworker"]:
        return None
    known = set(command_names())
    found = [name for n in range(1, len(words)) if (name := tuple(words[2 : 2 + n])) in known]
    if not found:
        raise ValueError(f"no command: {' '.join(words[1:])}")
    return max(found, key=len)
