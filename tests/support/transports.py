"""On which transports a test runs that says nothing of them itself."""

from typing import Literal

import pytest

Transport = Literal[
    "filesystem", "memory", "amqp", "classic", "proxied", "victim", "victim-classic", "victim-proxied", "cluster"
]
"""`amqp` has quorum queues, `classic` is RabbitMQ's older kind. `proxied` is reached through the fixture `proxy`. The
`victim` is the node that a test may stop, and has the fixture of that name."""


def on(*transports: Transport) -> pytest.MarkDecorator:
    """Runs a test with its home's bus on each of these; a test without this mark runs on `filesystem` alone."""
    return pytest.mark.parametrize("broker", transports, indirect=True)


EVERYWHERE = on("filesystem", "memory", "amqp")
