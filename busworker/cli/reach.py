"""Where a command looks: the broker, the queues its SELECTOR means, the ids it names."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from busworker import deadletters, settings, subscriptions
from busworker.broker import topology
from busworker.bus import Bus
from busworker.cli.options import app_of
from busworker.errors import NothingMatches
from busworker.letters import UNROUTED, Selector, parse_selector, queue_of, split

if TYPE_CHECKING:
    from busworker.broker.session import Session


@dataclass(frozen=True, slots=True)
class Reach:
    """What a command works on; `queues` hold dead letters, or are the unrouted one."""

    session: Session
    queues: Sequence[str]
    ids: Sequence[str]
    embedded: bool


@dataclass(frozen=True, slots=True)
class Connected:
    """A session with the broker of `url`, and the application, if one is named."""

    session: Session
    url: str
    bus: Bus | None


@contextmanager
def reach(broker: str | None, app: str | None, arguments: Sequence[str], ids: Sequence[str]) -> Generator[Reach]:
    """Connects, and finds out what the arguments of a command mean.

    Raises:
        BrokerUnavailable: there is no broker, or no store; none is made.
        NothingMatches: what was named isn't there.
        click.UsageError: the broker can't list its queues, no service of it runs here, and neither a full SELECTOR nor
            `--app` was given.
    """
    with connected(broker, app) as there:
        session, bus = there.session, there.bus
        listed = deadletters.subscriptions(session)
        declared = subscriptions.declared(bus.spec) if bus else []
        if listed is None and bus is None and not (declared := _served_here(there.url, arguments)):
            queues, named = _blind(session, arguments)
        else:
            queues, named = sighted(arguments, listed or [], declared)
        yield Reach(session, queues, (*named, *ids), embedded=listed is not None)


@contextmanager
def connected(broker: str | None, app: str | None) -> Generator[Connected]:
    """Connects to the broker that a command means.

    Raises:
        BrokerUnavailable: there is no broker, or no store; none is made.
    """
    from busworker.broker.session import open_session  # so that --help stays quick

    bus = application(app)
    url = settings.broker_of(bus.broker if bus else None, broker)
    session = open_session(url, create=False)
    try:
        yield Connected(session, url, bus)
    finally:
        session.close()


def sighted(
    arguments: Sequence[str], listed: Sequence[str], declared: Sequence[str]
) -> tuple[list[str], tuple[str, ...]]:
    """The queues and the ids that arguments mean, where subscriptions are known.

    Args:
        arguments: as written.
        listed: the subscriptions in the broker.
        declared: those of the application; without a SELECTOR only these are meant, if there are any.
    """
    known = sorted({*listed, *declared})
    selector, ids = split(arguments, known)
    if selector is None:
        return [queue_of(name) for name in declared or known], ids
    return _queues(selector, known), ids


def _queues(selector: Selector, known: Sequence[str]) -> list[str]:
    if selector.service == UNROUTED:
        return [topology.UNROUTED]
    return [queue_of(name) for name in known if selector.matches(name)]


def _served_here(url: str, arguments: Sequence[str]) -> list[str]:
    """The subscriptions of the services that run here; none if the arguments name a queue already."""
    selector = parse_selector(arguments[0]) if arguments else None
    if selector is not None and selector.exact:
        return []
    from busworker.cli.serving import all_served, services_here, tell_silent  # mostly they aren't needed

    here = services_here(url)
    tell_silent(here)
    return sorted(all_served(here))


def _blind(session: Session, arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """As `sighted` where only a queue with a known name can be found (AMQP without an application or a service)."""
    selector = parse_selector(arguments[0]) if arguments else None
    if selector is None or not selector.exact:
        raise click.UsageError("this broker lists no queues: name TOPIC/SERVICE.CHANNEL, unrouted, or --app")
    if selector.service == UNROUTED:
        return [topology.UNROUTED], tuple(arguments[1:])
    if not deadletters.existing(session, [arguments[0]]):
        raise NothingMatches(f"there is no subscription {arguments[0]!r}: check its name and the broker")
    return [queue_of(arguments[0])], tuple(arguments[1:])


def selector_of(text: str, *, unrouted: bool) -> Selector:
    """The selector that an argument is.

    Args:
        text: as written.
        unrouted: whether it may be `unrouted`.

    Raises:
        click.UsageError: it is none.
    """
    selector = parse_selector(text)
    if selector is None or (selector.service == UNROUTED and not unrouted):
        raise click.UsageError(f"{text!r} names no subscription: write [TOPIC/]SERVICE[.CHANNEL]")
    return selector


def application(app: str | None) -> Bus | None:
    """The Bus that `--app` or a setting names; None if none does."""
    where = app_of(app)
    if where is None:
        return None
    from busworker.application import load  # mostly it isn't needed

    return load(where)
