"""Services under watch: an application in a home, what its handlers recorded, and what the commands tell of it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import kombu
from amqp.exceptions import NotFound

from busworker.broker.topology import retry_queues
from busworker.brokers import EMBEDDED
from tests.support.command import Command, Service
from tests.support.home import Home
from tests.support.waiting import wait_until

RECORDING = '''
"""What the applications of tests use: a record that each line reaches whole, whatever kills the process."""
import os
import time

def record(what, event="-", attempt=0):
    line = f"{what} {event} {attempt} {os.getpid()}\\n"
    descriptor = os.open("record", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)

def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.005)
'''


class Line(NamedTuple):
    """One line of the record: what happened, with which event, in which attempt, and in which process."""

    what: str
    event: str
    attempt: int
    pid: int

    @classmethod
    def read(cls, text: str) -> "Line":
        what, event, attempt, pid = text.split(" ")
        return cls(what, event, int(attempt), int(pid))


class Stage:
    """Where a test lets services run, on the bus of its home; an application's file is named as its service."""

    def __init__(self, command: Command, home: Home) -> None:
        self.command = command
        self.home = home
        self._started: dict[str, None] = {}
        home.write("recording.py", RECORDING)

    @property
    def amqp(self) -> bool:
        """Whether the bus is a RabbitMQ broker's."""
        return self.home.broker.startswith("amqp")

    @contextmanager
    def kombu(self) -> Iterator[Any]:
        """A foreign program's channel to the bus. What it publishes to RabbitMQ is confirmed: a broker drops what it
        holds of others when their connection closes."""
        url = (self.home.broker or f"filesystem://{self.home.state}/busworker/bus").partition("?")[0]
        transport = EMBEDDED.get(url.partition(":")[0])
        options = {} if transport else {"confirm_publish": True}
        with kombu.Connection(url, transport=transport, transport_options=options) as connection:
            yield connection.channel()

    # What is done

    def start(self, name: str, *args: str, instance: str = "default", env: Mapping[str, str] | None = None) -> Service:
        """Starts a service and waits until it runs: what is published from now on reaches it."""
        service = self.launch(name, "--instance", instance, *args, env=env)
        wait_until(lambda: self._runs(service, name, instance), 30, lambda: f"the state running\n{service.stderr}")
        return service

    def launch(self, name: str, *args: str, env: Mapping[str, str] | None = None) -> Service:
        """Starts a service, and doesn't wait."""
        self._started[name] = None
        return self.command.start("start", name, *args, env=env)

    def publish(self, topic: str, *events: object) -> None:
        """Publishes events with one command, and waits until they are stored."""
        lines = "".join(f"{json.dumps(event)}\n" for event in events)
        done = self.command.run("publish", topic, "-", input=lines, timeout=60)
        assert (done.returncode, done.stdout) == (0, f"{len(events)}\n"), done.stderr

    def touch(self, name: str) -> None:
        """Makes the file that `wait_for(name)` of a handler waits for."""
        self.home.write(name, "")

    # What is seen

    def status(self, name: str, instance: str = "default", env: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What `status` tells of a service; {} if it doesn't run."""
        done = self.command.run("status", "--json", "--service", name, "--instance", instance, env=env)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def channels(
        self, name: str, instance: str = "default", env: Mapping[str, str] | None = None
    ) -> dict[str, dict[str, Any]]:
        """The channels of `status`, by name."""
        return {channel["name"]: channel for channel in self.status(name, instance, env).get("channels", [])}

    def dead(self, env: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """The dead letters of the bus, newest first; on AMQP those of the services started here, oldest first."""
        told = [self._told(env, "dead", "list", "--json", "--limit", "0", *scope) for scope in self._scopes()]
        return [letter for text in told for letter in json.loads(text)]

    def exported(self) -> list[dict[str, Any]]:
        """What `dead export` writes of them."""
        told = [self._told(None, "dead", "export", *scope) for scope in self._scopes()]
        return [json.loads(line) for text in told for line in text.splitlines()]

    def record(self, *what: str) -> list[Line]:
        """What was recorded so far; only the lines of these kinds, if some are named."""
        lines = [Line.read(text) for text in self._recorded().decode().splitlines()]
        return [line for line in lines if not what or line.what in what]

    def recorded(self) -> int:
        """The number of lines recorded so far."""
        return self._recorded().count(b"\n")

    def wait_recorded(self, lines: int, timeout: float = 30.0) -> None:
        """Waits until so many lines, or more, are recorded."""
        wait_until(lambda: self.recorded() >= lines, timeout, lambda: f"{lines} lines in\n{self._recorded()[-2000:]}")

    def wait_empty(self, name: str, timeout: float = 30.0) -> dict[str, dict[str, Any]]:
        """The channels, once nothing is ready, in flight or waiting in any."""
        return wait_until(lambda: self.empty(name), timeout, lambda: f"empty queues; {self.status(name)}")

    def empty(self, name: str, env: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]] | None:
        """The channels, if nothing is ready, in flight or waiting in any."""
        if self.amqp:
            return self._empty_on_amqp(name)
        channels = self.channels(name, env=env)
        return channels if _left(channels, "ready", "in_flight", "waiting") == {0} else None

    def _empty_on_amqp(self, name: str) -> dict[str, dict[str, Any]] | None:
        # Before and after: a message that fails meanwhile goes into a retry queue, one whose time has come out of it.
        if self._retries():
            return None
        channels = self.channels(name)
        return channels if _left(channels, "ready", "in_flight") == {0} and not self._retries() else None

    def _retries(self) -> int:
        """How many messages wait in the retry queues of an AMQP broker."""
        with kombu.Connection(self.home.broker.partition("?")[0]) as connection:
            return sum(_ready(connection, queue) for queue in retry_queues())

    def _scopes(self) -> list[tuple[str, ...]]:
        """What `dead` needs to find all dead letters: nobody can list the queues of an AMQP broker."""
        return [("--app", name) for name in self._started] if self.amqp else [()]

    def _told(self, env: Mapping[str, str] | None, *args: str) -> str:
        done = self.command.run(*args, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _runs(self, service: Service, name: str, instance: str) -> bool:
        assert service.exit_code is None, service.stderr
        return self.status(name, instance).get("state") == "running"

    def _recorded(self) -> bytes:
        path = self.home.path / "record"
        data = path.read_bytes() if path.exists() else b""
        return data[: data.rfind(b"\n") + 1]  # a write across two pages is seen in two steps


def _left(channels: dict[str, dict[str, Any]], *counts: str) -> set[int | None]:
    return {channel[count] for channel in channels.values() for count in counts}


def _ready(connection: kombu.Connection, queue: str) -> int:
    """How many messages can be fetched from a queue; 0 if there is none of that name."""
    try:
        return int(connection.default_channel.queue_declare(queue, passive=True).message_count)
    except NotFound:
        return 0
