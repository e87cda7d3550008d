"""The one look at the broker at a service's start; called in a child of the supervisor that ends with it."""

from __future__ import annotations

import logging

from busworker.broker.session import open_session
from busworker.declaration import ServiceSpec
from busworker.log_fields import event
from busworker.subscriptions import orphan_line, orphaned

log = logging.getLogger("busworker.broker")


def probe(url: str, service: ServiceSpec | None) -> None:
    """Connects once, declares the bus, and warns of what a service has left behind there, if one is given.

    Raises:
        BrokerUnavailable, ConfigurationError, TopologyMismatch: the broker can't be used, and why.
    """
    session = open_session(url)
    try:
        session.declare()
        for name, load in orphaned(session, service) if service is not None else ():
            log.warning("%s", orphan_line(name, load), extra=event("queue_unserved"))
    finally:
        session.close()
