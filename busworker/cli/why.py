"""`busworker why`: all that is known of one message, wherever it is."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

import click
import msgspec

from busworker import deadletters, subscriptions
from busworker.broker import topology
from busworker.cli.ending import end_orderly
from busworker.cli.options import app_option, broker_option, given, json_option
from busworker.cli.output import cell, print_json
from busworker.cli.reach import Connected, connected, selector_of
from busworker.cli.serving import Here, all_served, executing, services_here, tell_silent
from busworker.errors import NothingMatches
from busworker.letters import UNROUTED, Filter, Selector, queue_of
from busworker.message import utc
from busworker.moments import rfc3339
from busworker.names import subscription_parts
from busworker.plain import shell_word
from busworker.whereabouts import Holder, Place, executed, place

UNSEEN = "what is ready or waits can't be looked for on RabbitMQ, which shows nobody what he doesn't take"


class Published(msgspec.Struct, frozen=True):
    """That an id was published to a topic, and when."""

    topic: str
    at: str | None


class Answer(msgspec.Struct, frozen=True):
    """The answer in the format of `--json` (docs/reference/cli.md)."""

    id: str
    places: list[Place]
    published: list[Published]
    complete: bool


@click.command()
@click.argument("message_id", metavar="MESSAGE-ID")
@click.argument("selectors", metavar="[SELECTOR]...", nargs=-1)
@broker_option
@app_option
@json_option
def why(message_id: str, selectors: Sequence[str], broker: str | None, app: str | None, as_json: bool) -> None:
    """Show where a message is: ready, in flight, waiting, dead or unrouted, and why.

    SELECTOR is [TOPIC/]SERVICE[.CHANNEL], or unrouted; only those are looked at. On AMQP only dead letters, unrouted
    messages and what services execute here can be seen, of subscriptions that a SELECTOR, --app or a running service
    names.
    """
    wanted = [selector_of(text, unrouted=True) for text in selectors]
    end_orderly()  # what is held on AMQP goes back in its order
    with connected(broker, app) as there:
        answer = _answer(there, message_id, wanted)
    if as_json:
        print_json(answer)
    else:
        for one in answer.places:
            _print(one, message_id, given(broker, app))
        if answer.places and not answer.complete:
            click.echo(f"\n{UNSEEN}")
    if not answer.places:
        raise NothingMatches(f"no subscription that was named holds {message_id}" if wanted else _absent(answer))


def _answer(there: Connected, message_id: str, wanted: Sequence[Selector]) -> Answer:
    stored = there.session.holding(message_id)
    if stored is None:
        here = services_here(there.url)
        places = list(_looked_for(there, here, message_id, wanted))
    else:
        places = [it for one in stored if (it := place(one.delivery, held=one.held, due=one.due)) is not None]
        here = services_here(there.url)  # later, so that what was ready a moment ago is seen to execute
    tell_silent(here)
    meant = (one for one in executed(places, executing(here, message_id)) if _is_meant(one, wanted))
    found = sorted(meant, key=_where)  # else in the order in which it came there, which is another one each time
    return Answer(message_id, found, _published(there, found, message_id), complete=stored is not None)


def _is_meant(one: Place, wanted: Sequence[Selector]) -> bool:
    if not wanted:
        return True
    if one.subscription is None:
        return one.state != "unrouted" or any(selector.service == UNROUTED for selector in wanted)
    return any(selector.matches(one.subscription) for selector in wanted)


def _looked_for(there: Connected, here: Here, message_id: str, wanted: Sequence[Selector]) -> Generator[Place]:
    """Where it lies on a broker that only lets queues be read whose names are known.

    Raises:
        click.UsageError: none is known.
    """
    names = all_served(here).union(subscriptions.declared(there.bus.spec) if there.bus else ())
    exact = {one.subscription for one in wanted if one.subscription is not None}
    known = [name for name in names if not wanted or any(one.matches(name) for one in wanted)]
    if not (known or exact or any(one.service == UNROUTED for one in wanted)):
        raise click.UsageError("this broker lists no queues: name TOPIC/SERVICE.CHANNEL, unrouted, or --app")
    queues = [queue_of(name) for name in sorted({*known, *exact})]
    found = deadletters.look(there.session, [*queues, topology.UNROUTED], Filter(frozenset({message_id})), None)
    with closing(found):
        for delivery, _ in found:
            if (one := place(delivery)) is not None:
                yield one


def _published(there: Connected, places: Sequence[Place], message_id: str) -> list[Published]:
    """What the store remembers of ids that publishers chose, for an hour; it has to be asked by topic."""
    names = deadletters.subscriptions(there.session) or []
    names += subscriptions.declared(there.bus.spec) if there.bus else []
    topics = {subscription_parts(name)[0] for name in names} | {one.topic for one in places if one.topic}
    times = ((topic, there.session.stored_at(topic, message_id)) for topic in sorted(topics))
    return [Published(topic, rfc3339(utc(at))) for topic, at in times if at is not None]


def _absent(answer: Answer) -> str:
    if not answer.complete:
        return f"no dead letter or unrouted message is {answer.id}, and no worker here executes it; {UNSEEN}"
    if answer.published:
        told = ", ".join(f"to {one.topic} at {one.at}" for one in answer.published)
        return f"no subscription holds {answer.id}: it was published {told}, so it was handled or dropped since"
    return f"no subscription holds {answer.id}: it was handled or dropped, or never stored here"


def _print(one: Place, message_id: str, options: Sequence[str]) -> None:
    click.echo(f"{cell(_where(one))}: {cell(_how(one))}")
    if one.state in ("dead", "unrouted"):
        place_ = one.subscription or UNROUTED
        for verb in ("show", "replay"):
            words = ("busworker", "dead", verb, "--id", message_id, place_, *options)
            click.echo(f"  {' '.join(map(shell_word, words))}")


def _where(one: Place) -> str:
    if one.subscription is not None:
        return one.subscription
    if one.worker is not None:
        return f"{one.worker.service}.{one.worker.channel}"
    return f"{UNROUTED} {one.topic}" if one.state == "unrouted" else f"{one.topic}"


def _how(one: Place) -> str:
    match one.state:
        case "ready":
            return f"ready for attempt {one.attempt}"
        case "in_flight":
            attempt = "" if one.attempt is None else f", attempt {one.attempt}"
            return f"in flight{attempt}, {_holder(one.worker)}"
        case "waiting":
            return f"waits for attempt {one.attempt} until {one.until}"
        case "delayed":
            return f"published for later, for {one.until}"
        case "dead":
            cause = "" if one.error is None else f": {one.error.type}: {one.error.message}"
            return f"dead since {one.dead_at}, attempt {one.attempt}, {one.reason}{cause}"
        case "unrouted":
            return f"nobody subscribed to it when it was published, at {one.published_at}"


def _holder(worker: Holder | None) -> str:
    if worker is None:
        return "held by a consumer, and no worker here executes it"
    name = f"{worker.service}.{worker.channel}/{worker.slot}"
    return f"executed by worker {name} (instance {worker.instance}, pid {worker.pid}) since {worker.since}"
