"""On which transports a test runs that says nothing of them itself."""

from typing import Literal

import pytest

Transport = Literal["filesystem", "memory", "amqp", "classic"]
"""`amqp` has quorum queues, `classic` is RabbitMQ's older kind."""


def on(*transports: Transport) -> pytest.MarkDecorator:
    """Runs a test with its home's bus on each of these; a test without this mark runs on `filesystem` alone."""
    return pytest.mark.parametrize("broker", transports, indirect=True)


EVERYWHERE = on("filesystem", "memory", "amqp")
