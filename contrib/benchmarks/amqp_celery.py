"""The same work as `amqp_service.py`, as tasks of Celery: late acknowledgement, confirmed publishing, no results."""

from __future__ import annotations

import os

from amqp_service import COUNTED, append
from celery import Celery

app = Celery("amqp_celery", broker=os.environ["AMQP_RATES_CELERY"])
app.conf.task_acks_late = True
app.conf.task_ignore_result = True
app.conf.worker_prefetch_multiplier = 32  # twice as fast here as the default of 4
app.conf.broker_transport_options = {"confirm_publish": True}


@app.task
def nothing(event: dict[str, object]) -> None:
    """Is counted."""
    append(COUNTED, b".")
