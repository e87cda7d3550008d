"""`busworker dead run`."""

from __future__ import annotations

import faulthandler
from typing import TYPE_CHECKING

import click

from busworker.bus import Bus
from busworker.cli.ending import DONE, UNEXPECTED, Told
from busworker.cli.meant import reached, the_one
from busworker.cli.options import app_option, broker_option, require_app
from busworker.cli.output import cell
from busworker.cli.reach import application
from busworker.errors import NothingMatches
from busworker.message import Delivery, Outgoing, as_text
from busworker.names import subscription_name
from busworker.plain import escaped_lines

if TYPE_CHECKING:
    from types import TracebackType


@click.command()
@click.argument("message_id", metavar="ID")
@click.argument("selector", metavar="[SELECTOR]", required=False)
@broker_option
@app_option
@click.option("--pdb", "debug", is_flag=True, help="If it raises, enter the debugger where it did.")
def run(message_id: str, selector: str | None, broker: str | None, app: str | None, debug: bool) -> int:
    """Call the handler of a dead letter here, to see why it fails.

    The letter stays as it is. What the handler publishes is printed, and not published. Exits with 0 if the handler
    returned, with 1 if it raised something.
    """
    bus = application(require_app(app))
    assert bus is not None
    delivery, (channel, number) = _found(bus, message_id, selector, broker=broker, app=app)
    from busworker.worker.foreground import call, check  # after the look: there is no broker any more

    check(bus.channels[channel].subscriptions[number], delivery.body)
    faulthandler.enable()  # a handler that crashed its worker crashes this process
    try:
        call(bus, channel, number, delivery, _show)
    except Told:
        raise
    except BaseException as error:  # noqa: BLE001  one handler call with its hooks
        _show_raised(error, debug=debug)
        return UNEXPECTED
    click.echo("returned")
    return DONE


def _found(
    bus: Bus, message_id: str, selector: str | None, *, broker: str | None, app: str | None
) -> tuple[Delivery, tuple[str, int]]:
    """The message, and what handles it: a channel, and the number of a subscription there."""
    arguments = () if selector is None else (selector,)
    which = {"broker": broker, "app": app, "arguments": arguments, "ids": (message_id,)}
    with reached({**which, "reason": None, "older_than": None}) as (there, wanted):
        if len(wanted.ids) > 1:  # the selector is none, and so was taken for another id
            raise NothingMatches(f"there is no subscription {selector!r}: check its name and the broker")
        delivery, letter = the_one(there, wanted)
    for channel in bus.spec.channels:
        for number, one in enumerate(channel.subscriptions):
            if subscription_name(one.topic, bus.name, channel.name) == letter.subscription:
                return delivery, (channel.name, number)
    place = letter.subscription or "what is unrouted"
    raise NothingMatches(f"service {bus.name} has no handler for {place}: name by --app the application that has it")


def _show(outgoing: Outgoing) -> None:
    delay = "" if outgoing.delay is None else f" after {outgoing.delay:g} s"
    click.echo(f"publishes{delay} {cell(outgoing.routing_key)} {cell(outgoing.id)} {cell(as_text(outgoing.body))}")


def _show_raised(error: BaseException, *, debug: bool) -> None:
    from busworker.worker.foreground import raised

    text, trace = raised(error)
    for line in escaped_lines(text.rstrip("\n")):
        click.echo(line, err=True)
    if debug:
        _debug(trace)


def _debug(trace: TracebackType | None) -> None:
    import pdb

    pdb.post_mortem(trace)
