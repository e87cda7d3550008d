"""`busworker subscriptions`: which there are and who serves them, and removing those that nobody needs any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import click
import msgspec

from busworker import deadletters, subscriptions
from busworker.cli.ending import complain, end_orderly
from busworker.cli.options import app_option, broker_option, given, json_option
from busworker.cli.output import print_json_array, print_table
from busworker.cli.reach import Connected, connected, selector_of
from busworker.cli.serving import Here, served, services_here, tell_silent
from busworker.declaration import ServiceSpec
from busworker.errors import AlreadyRunning, NothingMatches
from busworker.letters import Selector
from busworker.names import subscription_parts
from busworker.plain import shell_word
from busworker.subscriptions import Load

State: TypeAlias = Literal["served", "stopped", "orphaned"]


class Server(msgspec.Struct, frozen=True):
    """A running service that has a handler for it."""

    service: str
    instance: str
    pid: int


class Listed(msgspec.Struct, frozen=True):
    """A subscription in the format of `--json` (docs/reference/cli.md)."""

    subscription: str
    state: State
    exists: bool
    ready: int | None
    in_flight: int | None
    waiting: int | None
    dead: int | None
    consumers: int
    services: list[Server]


@click.group("subscriptions", context_settings={"help_option_names": ["-h", "--help"]})
def subscriptions_() -> None:
    """List subscriptions, and remove those that nobody needs any more."""


@subscriptions_.command("list")
@click.argument("selector", metavar="[SELECTOR]", required=False)
@broker_option
@app_option
@json_option
def list_(selector: str | None, broker: str | None, app: str | None, as_json: bool) -> None:
    """List subscriptions: what their queues hold, and who serves them.

    SELECTOR is [TOPIC/]SERVICE[.CHANNEL]. On AMQP, where nobody can list queues, it names one subscription, or --app
    says which there are.
    """
    wanted = None if selector is None else selector_of(selector, unrouted=False)
    with connected(broker, app) as there:
        names = _known(there, wanted)
        here = services_here(there.url, {subscription_parts(name)[1] for name in names})
        spec = None if there.bus is None else there.bus.spec
        found = [_listed(name, subscriptions.load(there.session, name), here, spec) for name in names]
    tell_silent(here)
    if as_json:
        print_json_array(found)
    else:
        _print(found, given(broker, app))


@subscriptions_.command()
@click.argument("names", metavar="TOPIC/SERVICE.CHANNEL...", nargs=-1, required=True)
@broker_option
@app_option
@click.option("--dead", is_flag=True, help="Their dead letters too.")
@click.option("--yes", is_flag=True, help="Don't ask.")
def remove(names: Sequence[str], broker: str | None, app: str | None, dead: bool, yes: bool) -> None:
    """Remove subscriptions for good, with the messages in their queues.

    A subscription that somebody serves is left, and then all are. Dead letters stay, unless --dead says otherwise.
    Messages that wait for a retry end as unrouted when their time has come.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        if not selector_of(name, unrouted=False).exact:
            raise click.UsageError(f"{name!r} is no subscription: write TOPIC/SERVICE.CHANNEL")
    end_orderly()
    with connected(broker, app) as there:
        loads = {name: subscriptions.load(there.session, name) for name in names}
        _require_there(loads, dead=dead)
        require_unserved(loads, services_here(there.url, {subscription_parts(name)[1] for name in names}))
        if not yes and not _confirmed(loads, dead=dead):
            complain("nothing was removed")
            return
        for name in names:
            removed = subscriptions.remove(there.session, name, dead=dead)
            if removed is None:
                raise AlreadyRunning(f"subscription {name} is served by somebody just now: it was left as it is")
            click.echo(f"removed {name} (messages lost: {removed.messages}, dead letters lost: {removed.dead})")


def _known(there: Connected, selector: Selector | None) -> list[str]:
    """The subscriptions that are meant, sorted.

    Raises:
        click.UsageError: nobody knows which there are.
        NothingMatches: none is what was named.
    """
    listed, bus = deadletters.subscriptions(there.session), there.bus
    if listed is None and bus is None and not (selector and selector.exact):
        raise click.UsageError("this broker lists no queues: name TOPIC/SERVICE.CHANNEL, or --app")
    known = {*(listed or []), *(subscriptions.declared(bus.spec) if bus else [])}
    if selector is None:
        return sorted(known)
    if listed is None and (name := selector.subscription) is not None:
        known |= {name} if _is_there(subscriptions.load(there.session, name)) else set()
    found = sorted(name for name in known if selector.matches(name))
    if not found:
        raise NothingMatches("no subscription is what was named: see busworker subscriptions list")
    return found


def _is_there(load: Load) -> bool:
    """Whether anything of a subscription is."""
    return load.exists or load.dead is not None


def _listed(name: str, load: Load, here: Here, spec: ServiceSpec | None) -> Listed:
    servers = [Server(one.service, one.instance, one.pid) for one in served(here, name)]
    state = state_of(name, here, spec, is_served=bool(servers or load.consumers))
    counts = (load.ready, load.in_flight, load.waiting, load.dead)
    return Listed(name, state, load.exists, *counts, load.consumers, servers)


def state_of(name: str, here: Here, spec: ServiceSpec | None, *, is_served: bool) -> State:
    """`orphaned` only if it is known what its channel serves today: from its application, or a service that runs it."""
    if is_served:
        return "served"
    _, service, channel = subscription_parts(name)
    if spec is not None and spec.name == service:
        return "stopped" if name in subscriptions.declared(spec) else "orphaned"
    runs = any(one.service == service and any(it.name == channel for it in one.channels) for one in here.told)
    return "orphaned" if runs else "stopped"


def _print(found: Sequence[Listed], options: Sequence[str]) -> None:
    heads = ("SUBSCRIPTION", "READY", "IN FLIGHT", "WAITING", "DEAD", "SERVED BY")
    rows = [(one.subscription, one.ready, one.in_flight, one.waiting, one.dead, _served_by(one)) for one in found]
    print_table(heads, rows)
    orphans = [one.subscription for one in found if one.state == "orphaned" and one.exists]
    if orphans:
        words = ("busworker", "subscriptions", "remove", *orphans, *options)
        click.echo(f"\nto remove what has no handler any more:\n  {' '.join(map(shell_word, words))}")


def _served_by(one: Listed) -> str:
    if one.services:
        return ", ".join(f"{it.service} (instance {it.instance}, pid {it.pid})" for it in one.services)
    match one.state:
        case "served":
            return f"{one.consumers} elsewhere"
        case "orphaned":
            return "no handler any more" if one.exists else "no handler any more; dead letters are left"
        case "stopped":
            return "nobody now" if one.exists else "nobody; it has no queue"


def _require_there(loads: dict[str, Load], *, dead: bool) -> None:
    missing = [name for name, load in loads.items() if not _is_there(load)]
    if missing:
        raise NothingMatches(f"there is no subscription {', '.join(missing)}: see busworker subscriptions list")
    for name, load in loads.items():
        if not load.exists and load.dead and not dead:
            raise click.UsageError(f"of {name} only {load.dead} dead letters are left: add --dead to remove these too")


def require_unserved(loads: dict[str, Load], here: Here) -> None:
    """Checks that nobody serves these subscriptions.

    Raises:
        AlreadyRunning: somebody does, or may.
    """
    for name, load in loads.items():
        servers = [f"service {one.service} (instance {one.instance}, pid {one.pid})" for one in served(here, name)]
        if servers:
            raise AlreadyRunning(f"subscription {name} is served by {', '.join(servers)}: stop it first")
        if load.consumers:
            raise AlreadyRunning(
                f"subscription {name} is served: {load.consumers} consume from its queue; stop them first"
            )
        if silent := [one for one in here.silent if one.service == subscription_parts(name)[1]]:
            raise AlreadyRunning(
                f"service {silent[0].service} (pid {silent[0].pid}) may serve {name}, and doesn't answer"
            )


def _confirmed(loads: dict[str, Load], *, dead: bool) -> bool:
    what = next(iter(loads)) if len(loads) == 1 else f"{len(loads)} subscriptions"
    messages, letters, waiting = subscriptions.lost(list(loads.values()))
    question = (
        f"Remove {what} for good? Messages lost: {messages}. Dead letters {'lost' if dead else 'kept'}: {letters}."
    )
    if waiting != 0:
        question += f" Waiting for a retry, to end as unrouted: {'?' if waiting is None else waiting}."
    try:
        return click.confirm(question, err=True)
    except click.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise
        raise click.UsageError("remove asks first: answer it, or add --yes") from error
