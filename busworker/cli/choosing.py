"""Which running service a command means, by `--service`, `--instance`, `--app` and `--broker`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click

from busworker import settings
from busworker.brokers import parse
from busworker.cli.options import F, app_of, app_option, broker_option, setting_option
from busworker.ipc.control import Instance, NotAnswering, NotRunning, running
from busworker.ipc.instance import Identity
from busworker.urls import bus_identity, hide_password


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is known of the service that is meant; None: nothing. `broker` is a URL."""

    service: str | None = None
    instance: str | None = None
    broker: str | None = None

    def fits(self, found: Instance | Identity) -> bool:
        """Whether it can be that one; one that doesn't say who it is can be any."""
        return not found.service or (
            self.service in (None, found.service)
            and self.instance in (None, found.instance)
            and (self.broker is None or bus_identity(self.broker) == bus_identity(found.broker))
        )

    def __str__(self) -> str:
        broker = None if self.broker is None else hide_password(self.broker)
        parts = (("service", self.service), ("instance", self.instance), ("broker", broker))
        return ", ".join(f"{name} {value}" for name, value in parts if value is not None)


def service_options(function: F) -> F:
    """`--service`, `--instance`, `--app` and `--broker`, for `the_service`."""
    return name_options(app_option(broker_option(function)))


def name_options(function: F) -> F:
    """`--service` and `--instance`, for `the_named_service`."""
    with_service: Callable[[F], F] = setting_option(settings.SERVICE)
    with_instance: Callable[[F], F] = setting_option(settings.INSTANCE)
    return with_service(with_instance(function))


def the_service(service: str | None, instance: str | None, app: str | None, broker: str | None) -> Instance:
    """The running service that is meant.

    Raises:
        NotRunning: none that fits runs.
        NotAnswering: its supervisor doesn't answer.
        click.UsageError: several do; the message names them.
    """
    return choose(running(), wanted(service, instance, app, broker))


def the_named_service(service: str | None, instance: str | None) -> Instance:
    """As `the_service`, by these two names alone: no application is imported, whatever is set, and no other asked."""
    named = _wanted(settings.find(settings.SERVICE, service), instance, None, None)
    return choose(running(named.fits), named)


def wanted(service: str | None, instance: str | None, app: str | None, broker: str | None) -> Wanted:
    """What the options and settings say. The application is imported only if that is needed.

    Raises:
        ConfigurationError: the broker's URL is wrong.
    """
    name = settings.find(settings.SERVICE, service)
    declared = None
    if name is None and (where := app_of(app)) is not None:
        from busworker.application import load  # mostly it isn't needed

        bus = load(where)
        name, declared = bus.name, bus.broker
    return _wanted(name, instance, broker, declared)


def _wanted(name: str | None, instance: str | None, broker: str | None, declared: str | None) -> Wanted:
    chosen = settings.stated(settings.INSTANCE, instance)
    if name is not None and chosen is None:
        chosen = settings.INSTANCE.default
    url = settings.stated(settings.BROKER, broker, declared)
    if url is not None:
        parse(url)
    return Wanted(name, chosen, url)


def choose(found: Sequence[Instance], wanted: Wanted) -> Instance:
    """The one that fits; see `the_service`."""
    fitting = [instance for instance in found if wanted.fits(instance)]
    fitting = [instance for instance in fitting if instance.service] or fitting
    if len(fitting) == 1:
        return _answering(fitting[0])
    if fitting:
        raise click.UsageError(f"several services run: {_named(fitting)}; choose by --service, --instance, --broker")
    meant = str(wanted)
    way_out = f"; running: {_named(found)}" if found else ": busworker start runs one"
    raise NotRunning(f"no service runs here{f' with {meant}' if meant else ''}{way_out}")


def _answering(one: Instance) -> Instance:
    if one.silent:
        who = f"service {one.service} (instance {one.instance})" if one.service else f"the service at {one.path}"
        process = f"process {one.pid}, " if one.pid else ""
        resume = f"kill -CONT {one.pid or 'PID'}"
        raise NotAnswering(
            f"{who} doesn't answer: its supervisor, {process}is stopped ({resume}) or hangs (see its log)"
        )
    return one


def _named(instances: Sequence[Instance]) -> str:
    return ", ".join(
        f"{one.service} (instance {one.instance}, {hide_password(one.broker)}{', silent' if one.silent else ''})"
        for one in sorted(instances, key=lambda one: (one.service, one.instance, one.broker))
    )
