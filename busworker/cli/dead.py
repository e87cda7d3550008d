"""`busworker dead`: list, show, drop and export dead letters; the other commands have modules of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import click

from busworker import deadletters
from busworker.cli import letter as shown
from busworker.cli.ending import complain
from busworker.cli.foreground import run
from busworker.cli.importing import import_
from busworker.cli.meant import (
    everywhere_option,
    ids_there,
    letter_options,
    limit_option,
    reached,
    require_all,
    require_named,
    the_one,
)
from busworker.cli.options import given, json_option
from busworker.cli.output import print_json, print_json_array, print_json_line
from busworker.cli.reach import Reach
from busworker.cli.replay import replay
from busworker.groups import By, Group, grouped
from busworker.letters import DeadLetter, Filter
from busworker.pace import Pace

LIST_LIMIT = 100


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def dead() -> None:
    """List, show, replay, drop, export, import and run dead letters.

    SELECTOR is [TOPIC/]SERVICE[.CHANNEL], or unrouted. The first argument is a SELECTOR if it matches a
    subscription or a service, else an ID; --id ID always is one.
    """


@dead.command("list")
@letter_options
@limit_option(LIST_LIMIT)
@click.option(
    "--group-by",
    type=click.Choice(["reason", "error"]),
    metavar="FIELD",
    help="Only count them: by reason, or by error.",
)
@json_option
def list_(limit: int, group_by: By | None, as_json: bool, **which: Any) -> None:
    """List dead letters, newest first; on AMQP oldest first."""
    with reached(which) as (there, wanted):
        if group_by is not None:
            groups = _grouped(there, wanted, group_by)[: limit or None]
            (shown.print_groups_json if as_json else shown.print_groups)(groups, group_by)
            return
        found = deadletters.listed(there.session, there.queues, wanted, limit or None, newest_first=there.embedded)
        with closing(found):
            letters = _all_there(wanted, found, limit)
            if as_json:
                print_json_array(letters)
            else:
                shown.print_list(letters, limit or None)


@dead.command()
@letter_options
@json_option
def show(as_json: bool, **which: Any) -> None:
    """Show all that is known of one dead letter."""
    with reached(which) as (there, wanted):
        if len(wanted.ids) != 1:
            raise click.UsageError("name one ID")
        _, letter = the_one(there, wanted)
    if as_json:
        print_json(letter)
    else:
        shown.print_letter(letter, options=given(which["broker"], which["app"]))


@dead.command()
@letter_options
@limit_option(0)
@everywhere_option
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
def drop(limit: int, everywhere: bool, yes: bool, as_json: bool, **which: Any) -> None:
    """Remove dead letters for good."""
    require_named(which, everywhere)
    with reached(which) as (there, wanted):
        require_all(wanted, ids_there(there, wanted))
        if not yes and not _confirmed(there, wanted, limit):
            complain("nothing was dropped")
            return
        with shown.counted("dropped", Pace(), as_json=as_json) as pace:
            deadletters.drop(there.session, there.queues, wanted, limit or None, pace)


@dead.command()
@letter_options
@limit_option(0)
def export(limit: int, **which: Any) -> None:
    """Print dead letters as JSON lines, original bytes included."""
    missing = set[str | None]()
    with reached(which) as (there, wanted):
        missing |= wanted.ids
        found = deadletters.find(
            there.session, there.queues, wanted, limit or None, with_bytes=True, newest_first=False
        )
        with closing(found):
            for letter in _first(found, limit):
                missing.discard(letter.id)
                print_json_line(letter)
    require_all(wanted, wanted.ids - missing, complete=limit == 0)


def _grouped(there: Reach, wanted: Filter, by: By) -> list[Group]:
    found = set[str | None]()

    def noted(letters: Iterator[DeadLetter]) -> Iterator[DeadLetter]:
        for letter in letters:
            found.update(wanted.ids & {letter.id})
            yield letter

    with closing(deadletters.find(there.session, there.queues, wanted, None)) as letters:
        groups = grouped(noted(letters), by)
    require_all(wanted, found)
    return groups


def _all_there(wanted: Filter, found: Iterator[DeadLetter], limit: int) -> Iterator[DeadLetter]:
    """The letters, once all are known to be there that are named; without names none is held."""
    if not wanted.ids:
        return found
    letters = list(found)
    require_all(wanted, {letter.id for letter in letters}, complete=len(letters) != limit)
    return iter(letters)


def _confirmed(there: Reach, wanted: Filter, limit: int) -> bool:
    number = deadletters.number(there.session, there.queues, wanted)
    number = min(number, limit) if limit else number
    try:
        return number == 0 or click.confirm(f"Drop {number} dead letters for good?", err=True)
    except click.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise
        raise click.UsageError("drop asks first: answer it, or add --yes") from error


def _first(letters: Iterator[DeadLetter], limit: int) -> Iterator[DeadLetter]:
    for number, letter in enumerate(letters, 1):
        yield letter
        if number == limit:
            return


dead.add_command(replay)
dead.add_command(import_)
dead.add_command(run)
