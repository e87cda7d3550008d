"""A RabbitMQ broker under chaos: a node that may be killed and stopped, behind a proxy that cuts its connections."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

from busworker.broker.session import open_session
from tests.support.chaos.schedule import DELAYS, Step
from tests.support.proxy import Proxy
from tests.support.rabbitmq import Node
from tests.support.waiting import wait_until

FRESH = 2.0
"""Seconds after which no queue is new any more: a new one may be without a leader when the killed broker is back
(docs/explanation/guarantees.md, the exceptions of promise 1)."""


@dataclass
class Breakable:
    """The node, and the proxy through which all connections go."""

    node: Node
    proxy: Proxy
    _made_at: float = field(init=False)

    def prepare(self) -> None:
        """To be called once all work queues are made: makes the other queues that will be used."""
        with closing(open_session(self.proxy.url)) as session:
            for delay in DELAYS:
                session.declare_retry(delay)
        self._made_at = time.monotonic()

    def suffer(self, step: Step, meanwhile: Callable[[Step], None]) -> None:
        """Does that step to it, with what is to happen `meanwhile`. Afterwards it takes connections again."""
        match step.kind:
            case "cut":
                self.proxy.cut(reset=step.seconds > 0.15)
                meanwhile(step)
            case "stop":
                self.node.pause()
                meanwhile(step)
                self.node.resume()
            case _:
                self._wait_old()
                self.node.kill()
                self.node.launch()
                meanwhile(step)
                self.node.wait_booted()

    def _wait_old(self) -> None:
        wait_until(lambda: time.monotonic() >= self._made_at + FRESH, FRESH + 1, "queues that are old enough")
