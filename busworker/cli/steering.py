"""`busworker pause`, `resume` and `restart`: what is done to the channels of a service that runs on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import click

from busworker.cli.choosing import service_options, the_service
from busworker.cli.ending import CutShort
from busworker.cli.options import CHANNEL_NAME, DURATION
from busworker.errors import ControlError
from busworker.ipc import control

ANSWER_WITHIN = 10.0
"""Seconds that a service has to answer."""
HALTED_WITHIN = 10.0
"""Seconds that a consumer has to hand out nothing more; it may be waiting for its broker."""
POLL = 0.02


@click.command()
@click.argument("channel", type=CHANNEL_NAME)
@click.option("--for", "seconds", type=DURATION, metavar="DURATION", help="Resume by itself then: seconds, or 10m.")
@service_options
def pause(channel: str, seconds: float | None, **which: Any) -> None:
    """Have a channel take no more messages, until resume or until the service ends.

    What executes goes on. What only waits is given back, and not charged.
    """
    path = the_service(**which).path
    _ask(path, "pause", {"channel": channel, "seconds": seconds})
    until = time.monotonic() + HALTED_WITHIN
    while not _ask(path, "paused", {"channel": channel}).get("halted"):
        if time.monotonic() >= until:
            raise CutShort(f"{channel} is paused, but its consumer has not obeyed in {HALTED_WITHIN:g} s: see its log")
        time.sleep(POLL)
    click.echo(f"paused {channel}" + ("" if seconds is None else f" for {seconds:g} s"))


@click.command()
@click.argument("channel", type=CHANNEL_NAME)
@service_options
def resume(channel: str, **which: Any) -> None:
    """Have a paused channel take messages again. One that isn't paused goes on."""
    _ask(the_service(**which).path, "resume", {"channel": channel})
    click.echo(f"resumed {channel}")


@click.command()
@click.argument("channel", type=CHANNEL_NAME, required=False)
@click.option("--no-wait", is_flag=True, help="Return at once instead of when all have been replaced.")
@service_options
def restart(channel: str | None, no_wait: bool, **which: Any) -> None:
    """Replace the workers of CHANNEL, or of all channels, one by one.

    A new worker is ready before an old one goes, and each old one finishes what it executes. It stops when a new
    one fails (exit code 75). The code stays the one that the service has imported; HUP loads new code.
    """
    path = the_service(**which).path
    channels = _ask(path, "restart", {"channel": channel}).get("channels")
    names = ", ".join(map(str, cast("list[object]", channels))) if isinstance(channels, list) else "?"
    while not no_wait:
        seen = _ask(path, "rolling", {})
        if failed := seen.get("failed"):
            raise CutShort(f"the restart of {names} was given up: {failed}; the workers that were up go on")
        if not seen.get("left"):
            break
        time.sleep(POLL)
    click.echo(f"{'restarting' if no_wait else 'restarted'} {names}")


def _ask(path: Path, command: str, arguments: dict[str, object]) -> dict[str, object]:
    answer = control.ask(path, command, arguments, ANSWER_WITHIN)
    if not isinstance(answer, dict):
        raise ControlError("the service's answer makes no sense: use the busworker it runs")
    return cast("dict[str, object]", answer)
