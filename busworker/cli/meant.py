"""Which dead letters a command means: its arguments and options, and what they find."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Set
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from busworker import deadletters
from busworker.cli.ending import end_orderly
from busworker.cli.options import DURATION, app_option, broker_option
from busworker.cli.reach import Reach, reach
from busworker.errors import NothingMatches
from busworker.letters import DeadLetter, Filter
from busworker.message import Delivery
from busworker.settlement import REASONS

F = TypeVar("F", bound=Callable[..., Any])


def letter_options(function: F) -> F:
    """What commands on dead letters take, for `reached`."""
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


def limit_option(default: int, text: str = "How many at most; 0: all.") -> Callable[[F], F]:
    """`--limit`."""
    return click.option("--limit", type=click.IntRange(0), metavar="N", default=default, show_default=True, help=text)


def everywhere_option(function: F) -> F:
    """`--everywhere`, for `require_named`."""
    return click.option("--everywhere", is_flag=True, help="In every subscription there is.")(function)


@contextmanager
def reached(which: dict[str, Any]) -> Generator[tuple[Reach, Filter]]:
    """Connects, and gives what the values of `letter_options` mean. From then on TERM ends the command in order.

    Raises:
        As `reach`.
    """
    older, reason = which["older_than"], which["reason"]
    end_orderly()  # what is held on AMQP goes back in its order
    with reach(which["broker"], which["app"], which["arguments"], which["ids"]) as there:
        before = None if older is None else time.time() - older
        yield there, Filter(frozenset(there.ids), reason, before)


def require_named(which: dict[str, Any], everywhere: bool) -> None:
    """Refuses to change something that wasn't named.

    Raises:
        click.UsageError: nothing was named, or something beside `--everywhere`.
    """
    named = bool(which["arguments"] or which["ids"])
    if named == everywhere:
        hint = "not both" if named else "so that nothing is touched by mistake"
        raise click.UsageError(f"name IDs, a SELECTOR, or --everywhere, {hint}")


def require_all(wanted: Filter, found: Set[str | None], *, complete: bool = True) -> None:
    """Checks that every id that was named is there; not if what was found isn't complete.

    Raises:
        NothingMatches: one isn't.
    """
    missing = sorted(wanted.ids - found)
    if missing and complete:
        raise NothingMatches(f"no dead letter and no subscription {', '.join(missing)}: see busworker dead list")


def ids_there(there: Reach, wanted: Filter) -> set[str | None]:
    """The ids among those wanted that are there; nothing is looked at if none is named."""
    if not wanted.ids:
        return set()
    return {letter.id for letter in deadletters.find(there.session, there.queues, wanted, None)}


def the_one(there: Reach, wanted: Filter) -> tuple[Delivery, DeadLetter]:
    """The dead letter of an id, with its bytes; of several in one subscription the last to die.

    Raises:
        NothingMatches: there is none.
        click.UsageError: there are some in several subscriptions; the message names them.
    """
    found = list(deadletters.look(there.session, there.queues, wanted, None, with_bytes=True))
    require_all(wanted, {letter.id for _, letter in found})
    places = sorted({str(letter.subscription) for _, letter in found})
    if len(places) > 1:
        raise click.UsageError(f"it is dead in several subscriptions; name one of {', '.join(places)}")
    return max(found, key=lambda one: one[1].dead_at or "")
