"""From a broker URL to the brokers it names. Pure; imports no kombu, so that a start can refuse a wrong one at once.

The options of `amqp://` and `amqps://` have the names and values of RabbitMQ's "URI Query Parameters", where that page
has them; `queue_type` is ours.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qsl, urlsplit, urlunsplit

import msgspec

from busworker.errors import ConfigurationError
from busworker.urls import hide_password, shown

EMBEDDED = {
    "filesystem": "busworker.transports:FilesystemTransport",
    "memory": "busworker.transports:MemoryTransport",
}
AMQP = ("amqp", "amqps")
QUEUE_TYPES = ("quorum", "classic")
TLS_OPTIONS = ("cacertfile", "certfile", "keyfile", "server_name_indication", "verify")
OPTIONS = ("auth_mechanism", "heartbeat", "queue_type", *TLS_OPTIONS)
HEARTBEAT = 20
"""Seconds, if the URL says nothing."""
HEARTBEATS = range(1, 3601)
"""What it may say. Not 0: no heartbeat means that a peer that is gone is noticed after a quarter of an hour."""

_NEXT = re.compile(r";\s*(?=[a-z][a-z0-9+.-]*://|;|$)", re.IGNORECASE)
_RAW = re.compile(r"[\s\x00-\x1f\x7f;#]")


class Tls(msgspec.Struct, frozen=True):
    """How TLS is spoken with a broker. Paths are absolute.

    Attributes:
        cacertfile: the authorities that are trusted, as PEM; None: those of the system.
        certfile: the certificate that we show, as PEM; None: none.
        keyfile: its key; None: it is in `certfile`.
        server_name: what the broker's certificate must be made out to; None: the URL's host.
        verify: whether the certificate's chain and name are checked.
    """

    cacertfile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    server_name: str | None = None
    verify: bool = True


class Broker(msgspec.Struct, frozen=True):
    """A broker's URL, taken apart.

    Attributes:
        url: what kombu gets.
        scheme: one of `EMBEDDED` or `AMQP`.
        queue_type: of work and dead queues; None on the embedded engine.
        heartbeat: seconds that are asked for; RabbitMQ takes the smaller of its own and ours.
        tls: on `amqps://`; None elsewhere.
        external: whether the client certificate says who we are, instead of user and password.
    """

    url: str
    scheme: str
    queue_type: str | None
    heartbeat: int = HEARTBEAT
    tls: Tls | None = None
    external: bool = False

    def __str__(self) -> str:
        """The URL without its password: for errors."""
        return hide_password(self.url)

    @property
    def embedded(self) -> bool:
        """Whether it is the engine of this machine, with transactions and claims."""
        return self.scheme in EMBEDDED


def parse(url: str) -> list[Broker]:
    """The brokers of a URL: several, separated by `;`, are tried in turn.

    Raises:
        ConfigurationError: a scheme or an option doesn't exist, a value makes no sense, or the schemes differ.

    Guarantees:
        No error shows a password, even if characters in it aren't written as %-codes.
    """
    brokers = [_parse_one(part.strip()) for part in _NEXT.split(url) if part.strip()]
    if not brokers or len({broker.scheme for broker in brokers}) > 1:
        raise ConfigurationError(f"broker {shown(url)!r}: give one URL, or several of one scheme with ; between")
    return brokers


def _parse_one(url: str) -> Broker:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is none
    except ValueError:  # whose text may show a password
        raise ConfigurationError(
            f"broker {shown(url)!r} is no URL: check host and port, and write what is special in a password as %-codes"
        ) from None
    if parts.scheme in EMBEDDED and ";" not in url:
        return Broker(url, parts.scheme, None)
    if parts.scheme not in (*AMQP, *EMBEDDED) or "://" not in url:
        raise ConfigurationError(
            f"broker {shown(url)!r} has no scheme we know: use filesystem:///folder, memory://name, "
            "amqp://host or amqps://host"
        )
    _refuse_raw(url, parts)
    try:
        return _amqp(parts)
    except ValueError as error:
        raise ConfigurationError(f"broker {shown(url)!r}: {error}") from None


def _refuse_raw(url: str, parts: SplitResult) -> None:
    """Refuses what would end the password, and the host, early: a URL may have it only as a %-code (RFC 3986)."""
    if _RAW.search(url) or "@" in parts.path or "@" in parts.query:
        raise ConfigurationError(
            f"broker {shown(url)!r}: write what is special in user, password, virtual host and option as %-codes: "
            "%20 for a space, %23 for #, %2F for /, %3B for ;, %3F for ?, %40 for @"
        )


def _amqp(parts: SplitResult) -> Broker:
    options = _options(parts)
    url = urlunsplit(parts._replace(netloc=parts.netloc or "localhost", query=""))
    return Broker(
        url,
        parts.scheme,
        _one_of("queue_type", options.get("queue_type", QUEUE_TYPES[0]), QUEUE_TYPES),
        heartbeat=_heartbeat(options.get("heartbeat", str(HEARTBEAT))),
        tls=_tls(options) if parts.scheme == "amqps" else None,
        external=_external(options),
    )


def _options(parts: SplitResult) -> dict[str, str]:
    """The options of a URL. A + is a plus, as everywhere in a URL but in what browsers send of a form."""
    found = parse_qsl(parts.query.replace("+", "%2B"), keep_blank_values=True)
    options = dict(found)
    # kombu would take each for an argument of its Connection, and raise TypeError.
    for name, value in found:
        if name not in OPTIONS:
            raise ValueError(f"there is no option {name!r}, only {', '.join(OPTIONS)}")
        if not value or options[name] != value:
            raise ValueError(f"give {name} one value, or leave it out")
        if name in TLS_OPTIONS and parts.scheme != "amqps":
            raise ValueError(f"{name} is an option of amqps://")
    return options


def _tls(options: dict[str, str]) -> Tls:
    for name in ("cacertfile", "certfile", "keyfile"):
        if not options.get(name, "/").startswith("/"):
            raise ValueError(f"{name}={options[name]!r}: give the whole path, from / on")
    if "keyfile" in options and "certfile" not in options:
        raise ValueError("keyfile is the key of a certificate: give certfile too")
    return Tls(
        options.get("cacertfile"),
        options.get("certfile"),
        options.get("keyfile"),
        options.get("server_name_indication"),
        _one_of("verify", options.get("verify", "verify_peer"), ("verify_peer", "verify_none")) == "verify_peer",
    )


def _external(options: dict[str, str]) -> bool:
    external = _one_of("auth_mechanism", options.get("auth_mechanism", "plain"), ("plain", "external")) == "external"
    if external and "certfile" not in options:
        raise ValueError("auth_mechanism=external means the client certificate: give certfile on amqps://")
    return external


def _heartbeat(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) in HEARTBEATS):
        raise ValueError(
            f"heartbeat={text!r}: give whole seconds from {HEARTBEATS[0]} to {HEARTBEATS[-1]}; it can't be switched off"
        )
    return int(text)


def _one_of(name: str, value: str, values: tuple[str, ...]) -> str:
    if value not in values:
        raise ValueError(f"{name}={value!r}: use {' or '.join(values)}")
    return value
