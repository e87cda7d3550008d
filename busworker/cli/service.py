"""`busworker status`, `scale` and `stop`: talking to a running service over its control socket."""

from __future__ import annotations

import os
import select
import time
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import quote

import click
import msgspec

from busworker import settings
from busworker.cli import report
from busworker.cli.choosing import service_options, the_service
from busworker.cli.ending import CutShort
from busworker.cli.options import CHANNEL, json_option
from busworker.cli.output import print_json
from busworker.errors import BusworkerError, ControlError
from busworker.ipc import control
from busworker.names import SPOOL_QUEUE

ANSWER_WITHIN = 10.0
"""Seconds that a service has to answer."""
STOP_MARGIN = 15.0
"""Seconds beyond the grace that a stopping service may take: the last kills, and giving back."""
POLL = 0.05


@click.command()
@service_options
@json_option
def status(as_json: bool, **which: Any) -> None:
    """Show a running service: its channels, its workers, what waits and what is dead."""
    answer = control.ask(the_service(**which).path, "status", {}, ANSWER_WITHIN)
    if isinstance(answer, dict):
        answer = _with_spool(cast("dict[str, object]", answer))
    if as_json:
        print_json(answer)
        return
    try:
        report.show(msgspec.convert(answer, report.Status), datetime.now(UTC))
    except msgspec.ValidationError as error:
        raise ControlError(f"the service's status makes no sense ({error}): use the busworker it runs") from error


def _with_spool(answer: dict[str, object]) -> dict[str, object]:
    """The status with what the spool holds: the supervisor opens no store."""
    folder = answer.get("spool")
    if not isinstance(folder, str):
        return {**answer, "spool": None}
    from busworker.transports import count_messages  # which loads SQLite, if there is a spool at all

    try:
        messages = count_messages(f"filesystem://{quote(folder)}", SPOOL_QUEUE)
    except BusworkerError:
        messages = None
    return {**answer, "spool": {"folder": folder, "messages": messages}}


@click.command()
@click.argument("channel", type=CHANNEL, metavar="CHANNEL=N")
@service_options
def scale(channel: tuple[str, int | None], **which: Any) -> None:
    """Change the number of workers of a channel, until the service ends."""
    name, processes = channel
    if processes is None:
        raise click.UsageError(f"how many workers? Write {name}=N")
    control.ask(the_service(**which).path, "scale", {"channel": name, "processes": processes}, ANSWER_WITHIN)
    click.echo(f"{name}={processes}")


@click.command()
@click.option("--wait/--no-wait", default=True, help="Return when the service has ended (the default), or at once.")
@service_options
def stop(wait: bool, **which: Any) -> None:
    """Drain a running service: it takes no more messages, finishes what executes and ends."""
    instance = the_service(**which)
    watch = _watch(instance.pid)  # before it can have gone, so that its pid can't have become another's
    try:
        answer = control.ask(instance.path, "stop", {}, ANSWER_WITHIN)
        if wait:
            _wait(instance.pid, watch, _grace(answer) + STOP_MARGIN)
    finally:
        if watch is not None:
            os.close(watch)
    click.echo(f"{'stopped' if wait else 'stopping'} {instance.service} (instance {instance.instance})")


def _grace(answer: object) -> float:
    """Seconds that the drain may take: what the service says, else what would be set here."""
    told = cast("dict[str, object]", answer).get("grace") if isinstance(answer, dict) else None
    return float(told) if isinstance(told, int | float) else settings.require(settings.GRACE)


def _watch(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends (pidfd_open(2)); None if there is none."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _wait(pid: int, watch: int | None, timeout: float) -> None:
    if not (_gone(pid, timeout) if watch is None else bool(select.select([watch], [], [], timeout)[0])):
        raise CutShort(f"process {pid} still runs after {timeout:g} s: see its log, or end it by kill -QUIT {pid}")


def _gone(pid: int, timeout: float) -> bool:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(POLL)
    return False
