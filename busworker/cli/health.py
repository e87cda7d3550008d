"""`busworker health`: one look, for probes that ask every few seconds. Loads as little as it can."""

from __future__ import annotations

from typing import Any, cast

import click

from busworker.cli.choosing import name_options, the_named_service
from busworker.errors import ControlError
from busworker.ipc import control

ANSWER_WITHIN = 5.0
"""Seconds that a service has to answer; whoever probes it mostly waits less."""


@click.command()
@click.argument("probe", type=click.Choice(["live", "ready", "startup"]), default="ready")
@name_options
def health(probe: str, **which: Any) -> None:
    """Tell in one line, and by the exit code, whether a running service is well: 0, or 69.

    ready: every channel runs, or is paused. live: the supervisor answers. startup: every channel has been up once
    since the start.
    """
    answer = control.ask(the_named_service(**which).path, "health", {"probe": probe}, ANSWER_WITHIN)
    text = cast("dict[str, object]", answer).get("text") if isinstance(answer, dict) else None
    if not isinstance(text, str):
        raise ControlError("the service's answer makes no sense: use the busworker it runs")
    click.echo(f"{probe}: {text}")
