"""Options of commands, made from the settings' declarations, and the types of their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from busworker import settings
from busworker.errors import ConfigurationError
from busworker.names import checked_name
from busworker.settings import Setting
from busworker.units import seconds
from busworker.urls import hide_password

F = TypeVar("F", bound=Callable[..., Any])


def checked(read: Callable[[str], object]) -> Callable[[str], object]:
    """The type of an argument or option that a function reads; what it refuses is a usage error (exit 2)."""

    def convert(text: str) -> object:
        try:
            return read(text)
        except ConfigurationError as error:
            raise click.BadParameter(str(error)) from error

    return convert


def setting_option(setting: Setting[Any], *, help: str | None = None) -> Callable[[F], F]:
    """The option of a setting; its value is None where it isn't given."""
    read = checked(lambda text: setting.read(text, setting.option))
    shown = "" if setting.default is None else f"; default {setting.default}"
    choices = f" One of {', '.join(setting.choices)}." if setting.choices else ""
    text = f"{help or setting.help}{choices} [{setting.variable}{shown}]"
    return click.option(setting.option, setting.name, type=read, metavar=setting.metavar, help=text)


def broker_option(function: F) -> F:
    """`--broker`."""
    return setting_option(settings.BROKER)(function)


def app_option(function: F) -> F:
    """`--app`."""
    return setting_option(settings.APP)(function)


def json_option(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def given(broker: str | None, app: str | None) -> list[str]:
    """The options by which a command found its broker, for another one that it suggests.

    A password is hidden, and has to be written again.
    """
    words = [] if broker is None else ["--broker", hide_password(broker)]
    return words if app is None else [*words, "--app", app]


DURATION = checked(lambda text: seconds(text, "duration"))
"""Seconds, or a text like `7d`; its value is float seconds."""


def app_of(option: str | None) -> str | None:
    """The application, by all the rules; None if none is set."""
    return settings.find(settings.APP, option)


def require_app(option: str | None) -> str:
    """As `app_of`, but without one it is a usage error."""
    app = app_of(option)
    if app is None:
        raise click.UsageError(
            f"no application: name it (module[:attribute] or file.py), or set {settings.APP.variable}, "
            "or app in [tool.busworker] of pyproject.toml"
        )
    return app


CHANNEL_NAME = checked(lambda text: checked_name(text, "channel"))
"""The name of a channel."""


def _channel_number(text: str) -> tuple[str, int | None]:
    name, equals, number = text.partition("=")
    checked_name(name, "channel")
    return name, settings.PROCESSES.read(number, text) if equals else None


CHANNEL = checked(_channel_number)
"""A channel with or without a number of workers; its value is (name, number or None)."""
