"""The same work as `amqp_service.py`, as actors of Dramatiq, which always acknowledges late; confirmed publishing."""

from __future__ import annotations

import os
import time

import dramatiq
from amqp_service import COUNTED, TIMES, append
from dramatiq.brokers.rabbitmq import RabbitmqBroker

broker = RabbitmqBroker(url=os.environ["AMQP_RATES_DRAMATIQ"], confirm_delivery=True)
dramatiq.set_broker(broker)


@dramatiq.actor
def nothing(event: dict[str, object]) -> None:
    """Is counted."""
    append(COUNTED, b".")


@dramatiq.actor
def note_time(published: float) -> None:
    """Writes down how long the message took."""
    append(TIMES, b"%f\n" % (time.time() - published))
