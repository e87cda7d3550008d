"""The one look at the broker at a service's start; called in a child of the supervisor that ends with it."""

from __future__ import annotations

from busworker.broker.session import open_session


def probe(url: str) -> None:
    """Connects once, declares the bus and goes.

    Raises:
        BrokerUnavailable, ConfigurationError, TopologyMismatch: the broker can't be used, and why.
    """
    session = open_session(url)
    try:
        session.declare()
    finally:
        session.close()
