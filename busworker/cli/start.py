"""`busworker start`: this process becomes the supervisor of a service."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import click

from busworker import log_fields, logs, settings
from busworker.application import load, require_channels
from busworker.cli.options import CHANNEL, broker_option, require_app, setting_option
from busworker.declaration import ServiceSpec
from busworker.launch import FITS, ONLY_CHECK, Launch
from busworker.preview import preview
from busworker.retention import Retention
from busworker.run_options import StartOptions
from busworker.supervisor import signals
from busworker.supervisor.manager import Manager

log = logging.getLogger("busworker.cli")


@click.command()
@click.argument("app", required=False)
@click.option("--app", "app_option", metavar="APP", hidden=True)
@broker_option
@setting_option(settings.PROCESSES)
@click.option(
    "--channel",
    "channels",
    type=CHANNEL,
    metavar="NAME[=N]",
    multiple=True,
    help="Run only this channel (may be given again), with N workers.",
)
@setting_option(settings.INSTANCE)
@setting_option(settings.GRACE)
@setting_option(settings.DEAD_MAX_AGE)
@setting_option(settings.DEAD_MAX_COUNT)
@setting_option(settings.UNROUTED_MAX_AGE)
@setting_option(settings.HTTP)
@click.option("--no-preload", is_flag=True, help="Import the application in each worker instead of once.")
@setting_option(settings.LOG_LEVEL)
@setting_option(settings.LOG_FORMAT)
@click.option(ONLY_CHECK, is_flag=True, hidden=True)
def start(app: str | None, app_option: str | None, broker: str | None, **options: Any) -> int:
    """Run the service of APP: module[:attribute] or file.py[:attribute].

    It ends on TERM or INT, after what executes has finished (see --grace); a second signal ends it at once. HUP has
    it start again with new code. USR1 writes the stack of each process into the log.
    """
    launch = Launch.current()  # before the application can change anything
    manager = Manager.taken(os.environ, os.getpid())
    only_check: bool = options["only_check"]
    if not only_check:
        signals.until_started()
    from busworker import run  # so that --help stays quick

    level = settings.require(settings.LOG_LEVEL, options["log_level"])
    form = settings.require(settings.LOG_FORMAT, options["log_format"])
    logs.setup(level, form, "supervisor")
    where = require_app(app or app_option)
    preload = not options["no_preload"]
    bus = load(where) if preload else preview(where)
    require_channels(bus)
    log_fields.set_role(f"supervisor {bus.name}")
    chosen = StartOptions(
        app=where,
        bus=bus,
        broker=settings.broker_of(bus.broker, broker),
        instance=settings.require(settings.INSTANCE, options["instance"]),
        grace=settings.require(settings.GRACE, options["grace"]),
        preload=preload,
        log_level=level,
        log_format=form,
        retention=Retention(
            dead_max_age=settings.find(settings.DEAD_MAX_AGE, options["dead_max_age"]),
            dead_max_count=settings.find(settings.DEAD_MAX_COUNT, options["dead_max_count"]),
            unrouted_max_age=settings.find(settings.UNROUTED_MAX_AGE, options["unrouted_max_age"]),
        ),
        workers=workers(bus.spec, options["channels"], settings.find(settings.PROCESSES, options["processes"])),
        launch=launch,
        spool=settings.find(settings.SPOOL, declared=bus.spool),
        http=_address(options["http"]),
        manager=manager,
    )
    if not only_check:
        return run.supervise(chosen)
    click.echo(f"{FITS} {run.check(chosen)}")
    return 0


def _address(option: str | None) -> str | None:
    found = settings.find(settings.HTTP, option)
    return None if found == settings.OFF else found


def workers(spec: ServiceSpec, channels: Sequence[tuple[str, int | None]], processes: int | None) -> dict[str, int]:
    """How many workers each channel that runs gets.

    Args:
        spec: what the service declares.
        channels: the channels to run, each with its number or None; none at all: every channel.
        processes: for those without a number of their own; None: what the channel declares.

    Raises:
        click.UsageError: a channel doesn't exist.
    """
    declared = {channel.name: channel.processes for channel in spec.channels}
    unknown = [name for name, _ in channels if name not in declared]
    if unknown:
        raise click.UsageError(
            f"service {spec.name} has no channel {unknown[0]!r}; it has {', '.join(declared) or 'none'}"
        )
    numbers: Mapping[str, int | None] = dict(channels) if channels else dict.fromkeys(declared)
    return {name: number or processes or declared[name] for name, number in numbers.items()}
