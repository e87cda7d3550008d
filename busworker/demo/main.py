"""The demo's main: its story, and the reckoning at the end. Runs in the command's process, in one thread."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import quote

import click

from busworker import deadletters
from busworker.broker.session import Session, open_session
from busworker.cli.ending import CutShort
from busworker.cli.output import print_table
from busworker.demo.events import SUBSCRIPTIONS
from busworker.demo.folder import new_folder
from busworker.demo.ledger import Ledger
from busworker.demo.screen import HEADS, Screen, rows
from busworker.demo.services import Stage
from busworker.letters import Filter, queue_of
from busworker.urls import hide_password

FROM_THE_START = ("email", "points", "log")
LATER = "campaign"
STOP_POINTS = 25
"""The group of events with which the service `points` is stopped."""
PATIENCE = 40.0
"""Seconds without any progress after which the demo gives up, and reckons with what it has."""
POLL = 0.05
LOOK = 0.5
"""Seconds from one look at the dead letters to the next."""


def run(messages: int, broker: str | None) -> int:
    """Tells the story on a bus of its own, or on the one given, and prints what became of every event.

    Args:
        messages: how many events are published, at least 1.
        broker: a bus to use; None: a new one in a temporary folder, which is kept until the next demo.

    Returns:
        0 if every event is accounted for, else 1.
    """
    folder = new_folder()
    stage = Stage(folder, broker or f"filesystem://{quote(str(folder / 'bus'))}")
    ledger = Ledger(folder)
    session = open_session(stage.broker)  # open to the end: a memory:// bus lives as long as somebody uses it
    try:
        with Screen(ledger) as screen:
            Story(stage, session, ledger, screen).tell(messages)
    finally:
        stage.close()
        session.close()
    _reckon(stage, ledger)
    click.echo(f"lost {ledger.lost}")
    return 1 if ledger.lost else 0


class Story:
    """What happens in the demo, step by step."""

    def __init__(self, stage: Stage, session: Session, ledger: Ledger, screen: Screen) -> None:
        self._stage = stage
        self._session = session
        self._ledger = ledger
        self._screen = screen
        self._looked = 0.0
        self._terminated = False
        signal.signal(signal.SIGTERM, self._note_termination)

    def tell(self, messages: int) -> None:
        """Everything, until every event is accounted for and the services have ended, or nothing moves any more."""
        stage, ledger, say = self._stage, self._ledger, self._screen.say
        say(f"the bus is {hide_password(stage.broker)}, the logs are in {stage.folder}")
        self._start(FROM_THE_START)
        stage.publish(messages)
        say(f"a process of its own publishes {messages} events; it knows none of the services")
        for group, step in (
            (15, self._kill_a_worker),
            (STOP_POINTS, self._stop_points),
            (40, self._scale_email),
            (55, self._start_points_again),
            (65, self._start_campaign),
        ):
            self._until(partial(ledger.reached, group), "the publisher")
            step()
        stage.go_on()
        self._until(stage.all_published, "the publisher")
        say("all is published; what failed comes back after a second, up to three attempts")
        self._until(lambda: ledger.lost == 0, "the last events", fails=False)
        for service in SUBSCRIPTIONS:
            stage.stopped(service)
        say("the services have drained and ended, exit code 0")
        self._look()

    def _kill_a_worker(self) -> None:
        killed: list[str] = []

        def done() -> bool:
            killed.extend(self._stage.kill_executing("email"))
            return bool(killed) or self._ledger.reached(STOP_POINTS)

        self._until(done, "the publisher")
        if killed:
            self._screen.say(f"kill -9 of worker {killed[0]}; its message is retried")

    def _stop_points(self) -> None:
        self._screen.say(f"$ {self._stage.stopped('points')}")

    def _scale_email(self) -> None:
        self._screen.say(f"$ {self._stage.command('scale', 'welcome=4', '--service', 'email')}")

    def _start_points_again(self) -> None:
        self._run(["points"])
        self._screen.say("points runs again, and catches up")

    def _start_campaign(self) -> None:
        self._start([LATER])

    def _start(self, services: Sequence[str]) -> None:
        self._run(services)
        for service in services:
            self._ledger.open(service)
        self._screen.say(f"{', '.join(services)} {'runs' if len(services) == 1 else 'run'}")

    def _run(self, services: Sequence[str]) -> None:
        for service in services:
            self._stage.start(service)
        for service in services:
            self._until(partial(self._runs, service), f"service {service}")

    def _runs(self, service: str) -> bool:
        status = self._stage.status(service)
        return status is not None and status.state == "running"

    def _until(self, done: Callable[[], bool], what: str, *, fails: bool = True) -> None:
        """Waits for a condition as long as anything moves."""
        moved, before = time.monotonic(), None
        while not done():
            self._tick()
            if (now := rows(self._ledger)) != before:
                moved, before = time.monotonic(), now
            if time.monotonic() - moved > PATIENCE:
                if fails:
                    raise CutShort(f"{what} makes no progress for {PATIENCE:g} s: see the logs in {self._stage.folder}")
                return
            time.sleep(POLL)

    def _tick(self) -> None:
        if self._terminated:
            raise CutShort("the demo was ended before its end")
        self._ledger.read()
        if time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            self._look()
        self._screen.refresh()

    def _look(self) -> None:
        self._ledger.read()
        for service, account in self._ledger.accounts.items():
            letters = deadletters.find(self._session, [queue_of(SUBSCRIPTIONS[service])], Filter(), None)
            account.bury((letter.id or "", letter.reason or "") for letter in letters)

    def _note_termination(self, number: int, frame: object) -> None:
        self._terminated = True


def _reckon(stage: Stage, ledger: Ledger) -> None:
    click.echo()
    print_table(HEADS, rows(ledger))
    click.echo()
    if stage.broker.startswith("memory:"):
        click.echo("The dead letters have gone with the bus: memory:// lives as long as somebody uses it.")
        return
    where = f"--broker '{hide_password(stage.broker)}'"
    email = SUBSCRIPTIONS["email"]
    click.echo("Each dead letter has its cause, its attempts and its bytes:")
    click.echo(f"  busworker dead list {email} {where}")
    click.echo(f"  busworker dead list {email} --reason crash --json {where}")
    click.echo(f"  busworker dead export {email} {where}")
    click.echo(f"The bus and the logs stay until the next demo, in {stage.folder}")
