"""`busworker dead`: list, show, replay, drop and export dead letters."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Set
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import click

from busworker import deadletters
from busworker.cli import letter as shown
from busworker.cli.ending import complain, end_orderly
from busworker.cli.options import DURATION, app_option, broker_option, json_option
from busworker.cli.output import encoded, print_json, print_json_array, print_json_line
from busworker.cli.reach import Reach, reach
from busworker.errors import NothingMatches
from busworker.letters import REASONS, DeadLetter, Filter
from busworker.plain import escaped_json

LIST_LIMIT = 100
PAGE = 1000
"""Lines of a table that are held until they are printed, for the width of its columns."""

F = TypeVar("F", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def dead() -> None:
    """List, show, replay, drop and export dead letters.

    SELECTOR is [TOPIC/]SERVICE[.CHANNEL], or unrouted. The first argument is a SELECTOR if it matches a
    subscription or a service, else an ID; --id ID always is one.
    """


def _arguments(function: F) -> F:
    """What all of these commands take."""
    for option in reversed(
        (
            click.argument("arguments", nargs=-1, metavar="[SELECTOR] [ID]..."),
            broker_option,
            app_option,
            click.option("--id", "ids", metavar="ID", multiple=True, help="A message's id (may be given again)."),
            click.option(
                "--reason", type=click.Choice(REASONS), metavar="R", help=f"Only those: {', '.join(REASONS)}."
            ),
            click.option("--older-than", type=DURATION, metavar="DURATION", help="Only those dead so long: 7d."),
        )
    ):
        function = option(function)
    return function


def _limit(default: int) -> Callable[[F], F]:
    text = "How many at most; 0: all."
    return click.option("--limit", type=click.IntRange(0), metavar="N", default=default, show_default=True, help=text)


def _everywhere(function: F) -> F:
    return click.option("--everywhere", is_flag=True, help="In every subscription there is.")(function)


@dead.command("list")
@_arguments
@_limit(LIST_LIMIT)
@json_option
def list_(limit: int, as_json: bool, **which: Any) -> None:
    """List dead letters, newest first; on AMQP oldest first."""
    with _reached(which) as (there, wanted):
        found = deadletters.listed(there.session, there.queues, wanted, limit or None, newest_first=there.embedded)
        with closing(found):
            letters = _all_there(wanted, found, limit)
            if as_json:
                print_json_array(letters)
            else:
                shown.print_list(letters, min(limit, PAGE) or PAGE)


@dead.command()
@_arguments
@json_option
def show(as_json: bool, **which: Any) -> None:
    """Show all that is known of one dead letter."""
    with _reached(which) as (there, wanted):
        if len(wanted.ids) != 1:
            raise click.UsageError("name one ID")
        letters = list(deadletters.find(there.session, there.queues, wanted, None, with_bytes=True))
    _require_all(wanted, {letter.id for letter in letters})
    places = sorted({str(letter.subscription) for letter in letters})
    if len(places) > 1:
        raise click.UsageError(f"it is dead in several subscriptions; name one of {', '.join(places)}")
    letter = max(letters, key=lambda one: one.dead_at or "")
    if as_json:
        print_json(letter)
    else:
        shown.print_letter(letter)


@dead.command()
@_arguments
@_limit(0)
@_everywhere
@json_option
def replay(limit: int, everywhere: bool, as_json: bool, **which: Any) -> None:
    """Run dead letters again, where they died, from attempt 1."""
    _require_named(which, everywhere)
    with _reached(which) as (there, wanted):
        _require_all(wanted, _ids_there(there, wanted))
        number = deadletters.replay(there.session, there.queues, wanted, limit or None, time.time)
    _tell("replayed", number, as_json=as_json)


@dead.command()
@_arguments
@_limit(0)
@_everywhere
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
def drop(limit: int, everywhere: bool, yes: bool, as_json: bool, **which: Any) -> None:
    """Remove dead letters for good."""
    _require_named(which, everywhere)
    with _reached(which) as (there, wanted):
        _require_all(wanted, _ids_there(there, wanted))
        if not yes and not _confirmed(there, wanted, limit):
            complain("nothing was dropped")
            return
        number = deadletters.drop(there.session, there.queues, wanted, limit or None)
    _tell("dropped", number, as_json=as_json)


@dead.command()
@_arguments
@_limit(0)
def export(limit: int, **which: Any) -> None:
    """Print dead letters as JSON lines, original bytes included."""
    missing = set[str | None]()
    with _reached(which) as (there, wanted):
        missing |= wanted.ids
        found = deadletters.find(there.session, there.queues, wanted, limit or None, with_bytes=True)
        with closing(found):
            for letter in _first(found, limit):
                missing.discard(letter.id)
                print_json_line(letter)
    _require_all(wanted, wanted.ids - missing, complete=limit == 0)


@contextmanager
def _reached(which: dict[str, Any]) -> Generator[tuple[Reach, Filter]]:
    older, reason = which["older_than"], which["reason"]
    end_orderly()  # what is held on AMQP goes back in its order
    with reach(which["broker"], which["app"], which["arguments"], which["ids"]) as there:
        before = None if older is None else time.time() - older
        yield there, Filter(frozenset(there.ids), reason, before)


def _require_named(which: dict[str, Any], everywhere: bool) -> None:
    named = bool(which["arguments"] or which["ids"])
    if named == everywhere:
        hint = "not both" if named else "so that nothing is touched by mistake"
        raise click.UsageError(f"name IDs, a SELECTOR, or --everywhere, {hint}")


def _all_there(wanted: Filter, found: Iterator[DeadLetter], limit: int) -> Iterator[DeadLetter]:
    """The letters, once all are known to be there that are named; without names none is held."""
    if not wanted.ids:
        return found
    letters = list(found)
    _require_all(wanted, {letter.id for letter in letters}, complete=len(letters) != limit)
    return iter(letters)


def _require_all(wanted: Filter, found: Set[str | None], *, complete: bool = True) -> None:
    missing = sorted(wanted.ids - found)
    if missing and complete:
        raise NothingMatches(f"no dead letter and no subscription {', '.join(missing)}: see busworker dead list")


def _ids_there(there: Reach, wanted: Filter) -> set[str | None]:
    """The ids among those wanted that are there; nothing is looked at if none is named."""
    if not wanted.ids:
        return set()
    return {letter.id for letter in deadletters.find(there.session, there.queues, wanted, None)}


def _confirmed(there: Reach, wanted: Filter, limit: int) -> bool:
    number = deadletters.number(there.session, there.queues, wanted)
    number = min(number, limit) if limit else number
    try:
        return number == 0 or click.confirm(f"Drop {number} dead letters for good?", err=True)
    except click.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise
        raise click.UsageError("drop asks first: answer it, or add --yes") from error


def _tell(done: str, number: int, *, as_json: bool) -> None:
    click.echo(escaped_json(encoded({done: number}).decode()) if as_json else f"{done} {number}")


def _first(letters: Iterator[DeadLetter], limit: int) -> Iterator[DeadLetter]:
    for number, letter in enumerate(letters, 1):
        yield letter
        if number == limit:
            return
