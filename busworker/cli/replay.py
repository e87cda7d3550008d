"""`busworker dead replay`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import click

from busworker import deadletters
from busworker.cli import letter as shown
from busworker.cli.meant import (
    everywhere_option,
    ids_there,
    letter_options,
    limit_option,
    reached,
    require_all,
    require_named,
)
from busworker.cli.options import checked, json_option
from busworker.cli.output import print_json_line
from busworker.errors import ConfigurationError
from busworker.letters import DeadLetter
from busworker.pace import Pace

SLOWEST = 0.001
"""Messages a second."""


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not (math.isfinite(rate) and rate >= SLOWEST):
        raise ConfigurationError(f"{text!r} is no rate: give messages a second, {SLOWEST:g} or more")
    return rate


@click.command()
@letter_options
@limit_option(0)
@everywhere_option
@click.option("--dry-run", is_flag=True, help="Show how many and which, and change nothing.")
@click.option("--rate", type=checked(_rate), metavar="N", help="At most so many a second, such as 50 or 0.5.")
@json_option
def replay(limit: int, everywhere: bool, dry_run: bool, rate: float | None, as_json: bool, **which: Any) -> None:
    """Run dead letters again, where they died, from attempt 1."""
    require_named(which, everywhere)
    with reached(which) as (there, wanted):
        require_all(wanted, ids_there(there, wanted))
        if dry_run:
            found = deadletters.replayable(there.session, there.queues, wanted, limit or None)
            with closing(found):
                _show(found, as_json=as_json)
        else:
            with shown.counted("replayed", Pace(rate), as_json=as_json) as pace:
                deadletters.replay(there.session, there.queues, wanted, limit or None, time.time, pace)


def _show(letters: Iterator[DeadLetter], *, as_json: bool) -> None:
    number = 0

    def counted() -> Iterator[DeadLetter]:
        nonlocal number
        for letter in letters:
            number += 1
            yield letter

    if as_json:
        named = [{"id": letter.id, "subscription": letter.subscription} for letter in counted()]
        print_json_line({"would_replay": number, "letters": named})
    else:
        shown.print_list(counted())
        click.echo(f"would replay {number}")
