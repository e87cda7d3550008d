"""From a broker to a kombu connection, and from kombu's errors to ours."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import amqp.exceptions as refused
import kombu
from kombu.exceptions import KombuError

from busworker.broker import tls
from busworker.brokers import EMBEDDED, Broker
from busworker.errors import BrokerUnavailable, ConfigurationError
from busworker.transports.engine import location

AMQP_TRANSPORT = "busworker.transports.amqp:AmqpTransport"
CONNECT_TIMEOUT = 5
FINAL = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG})
"""What making a folder says that doesn't go away by itself (mkdir(2))."""


def connect(
    broker: Broker, *, claim_file: str | None = None, timeout: float = CONNECT_TIMEOUT, heartbeats: bool = False
) -> kombu.Connection:
    """A new connection, established within about `timeout` seconds.

    Args:
        broker: which.
        claim_file: on the engine, what claims are tied to.
        timeout: seconds.
        heartbeats: whether the other side may expect them, as the URL says; whoever asks for them must send them too.

    Raises:
        BrokerUnavailable: it can't be had now.
        ConfigurationError: the broker refuses us for good (credentials, virtual host).
    """
    with translated(broker):
        connection = _made(broker, claim_file, timeout, heartbeats=heartbeats)
        try:
            # `connect` pauses 2 s before a second try; our callers choose their own pauses.
            connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
        except OSError as error:
            if not tls.explained(broker, error) and (why := tls.suspicion(broker, error)):
                raise BrokerUnavailable(f"broker {broker} can't be used: {_said(error)}{why}") from error
            raise
        return connection


@contextmanager
def translated(broker: Broker) -> Generator[None, None, None]:
    """Turns what kombu and py-amqp raise into our errors."""
    try:
        yield
    except refused.AccessRefused as error:
        raise ConfigurationError(
            f"broker {broker} refuses us: {_said(error)}; check user, password (what is special in it as %-codes) and "
            "rights"
        ) from error
    except refused.NotAllowed as error:
        raise ConfigurationError(f"broker {broker} refuses us: {_said(error)}; check the virtual host") from error
    except (refused.AMQPError, KombuError, OSError, AttributeError) as error:
        # py-amqp sometimes raises AttributeError when a connection is lost (kombu/transport/pyamqp.py says so).
        # PRECONDITION_FAILED is here too: what declaring raises, the declarer has told apart (mismatch.py).
        if (final := tls.explained(broker, error)) is not None:
            raise ConfigurationError(final) from error
        raise BrokerUnavailable(f"broker {broker} can't be used: {_said(error)}") from error


def is_final(broker: Broker, error: BaseException) -> bool:
    """Whether trying again can't help: the file system lets this process neither make nor write the store."""
    if not broker.embedded:
        return False
    match error.__cause__:
        case FileNotFoundError(filename=str() as path):
            # Its folder is there and takes no new one: procfs, say. Else somebody removes folders just now.
            return Path(path).parent.is_dir()
        case OSError(errno=number):
            return number in FINAL
        case None:
            folder = location.parse(broker.url).folder
            return folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK)
        case _:
            return False


def _made(broker: Broker, claim_file: str | None, timeout: float, *, heartbeats: bool = False) -> kombu.Connection:
    if broker.embedded:
        options = {} if claim_file is None else {"claim_file": claim_file}
        return kombu.Connection(broker.url, transport=EMBEDDED[broker.scheme], transport_options=options)
    connect_timeout: Any = timeout  # kombu says int, and means float too
    with_tls: Any = tls.options(broker) or False  # it says bool
    return kombu.Connection(
        broker.url,
        transport=AMQP_TRANSPORT,
        connect_timeout=connect_timeout,
        heartbeat=broker.heartbeat if heartbeats else 0,
        # Named, because py-amqp takes EXTERNAL wherever the broker offers it, and then ignores user and password.
        login_method="EXTERNAL" if broker.external else "PLAIN",
        ssl=with_tls,
    )


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
