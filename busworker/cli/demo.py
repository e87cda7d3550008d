"""`busworker demo`: hands over to `busworker.demo`, imported only here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

import click

from busworker import settings
from busworker.cli.options import broker_option

MAIN = "busworker.demo.main:run"


@click.command()
@click.option("--messages", type=click.IntRange(1), default=1000, show_default=True, help="How many to publish.")
@broker_option
def demo(messages: int, broker: str | None) -> int:
    """Run a service, kill its processes again and again, and account for every message."""
    module, _, function = MAIN.partition(":")
    run = cast("Callable[[int, str | None], int]", getattr(importlib.import_module(module), function))
    return run(messages, settings.stated(settings.BROKER, broker))
