"""TLS to a broker: its settings as py-amqp takes them, its files checked first, and its failures explained."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from busworker.brokers import Broker, Tls
from busworker.errors import ConfigurationError

NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"})
"""What OpenSSL calls an answer that is no TLS at all."""


def options(broker: Broker) -> dict[str, Any] | None:
    """What `kombu.Connection(ssl=)` gets; None without TLS.

    The files are read here first: OpenSSL's errors don't name them, and it asks on the terminal for the passphrase of
    an encrypted key. They are read at each connect, so certificates may be renewed while a service runs.

    Raises:
        ConfigurationError: a file can't be read or holds something else; the message names it.
    """
    if broker.tls is None:
        return None
    tls = broker.tls
    _check(broker, tls)
    given = {"ca_certs": tls.cacertfile, "certfile": tls.certfile, "keyfile": tls.keyfile}
    # Without a name to compare, py-amqp takes any certificate of a known authority for the broker's. With one it can't
    # leave the check out, so that without the check no name is sent either (SNI).
    name = tls.server_name or urlsplit(broker.url).hostname or "localhost"
    checked = {"server_hostname": name} if tls.verify else {"cert_reqs": ssl.CERT_NONE}
    return {key: value for key, value in given.items() if value is not None} | checked


def explained(broker: Broker, error: BaseException) -> str | None:
    """What to do about a failure that the settings of TLS cause; None if they don't: trying again may help then."""
    match error:
        case ssl.SSLCertVerificationError(verify_message=str(why)):
            return (
                f"broker {broker} shows a certificate that doesn't hold: {why.rstrip('.')}; check the host name, or "
                "give cacertfile or server_name_indication in the URL"
            )
        case ssl.SSLError(reason=str(reason)) if "ALERT" in reason and ("CERTIFICATE" in reason or "_CA" in reason):
            return f"broker {broker} refuses our certificate ({_words(reason)}): check certfile and keyfile in the URL"
        case ssl.SSLError(reason=str(reason)) if reason in NO_TLS:
            return f"broker {broker} doesn't speak TLS on that port: check the port (mostly 5671), or use amqp://"
        case _:
            return None


def suspicion(broker: Broker, error: OSError) -> str:
    """What may be behind a connection that the broker closes as it begins; empty if TLS has nothing to do with it.

    In TLS 1.3 the client is done before the server has looked at its certificate (RFC 8446, 4.4.2.4), and mostly hears
    of a closed connection instead of an alert.
    """
    if broker.tls is None or isinstance(error, ConnectionRefusedError | TimeoutError | socket.gaierror):
        return ""
    if broker.tls.certfile is None:
        return "; if it wants a client certificate, give certfile and keyfile in the URL"
    return "; it may refuse our certificate: check certfile in the URL, and the broker's log"


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")


def _check(broker: Broker, tls: Tls) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.cacertfile is not None:
        _readable(broker, "cacertfile", tls.cacertfile)
        try:
            context.load_verify_locations(tls.cacertfile)
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"broker {broker}: cacertfile {tls.cacertfile!r} holds no certificates in PEM form: give the "
                "certificate of the authority that signed the broker's"
            ) from error
    if tls.certfile is not None:
        _check_ours(broker, context, tls.certfile, tls.keyfile)


def _check_ours(broker: Broker, context: ssl.SSLContext, certfile: str, keyfile: str | None) -> None:
    _readable(broker, "certfile", certfile)
    if keyfile is not None:
        _readable(broker, "keyfile", keyfile)
    key = f"keyfile {keyfile!r}" if keyfile is not None else "its key in the same file"
    try:
        context.load_cert_chain(certfile, keyfile, password=_no_passphrase)
    except EncryptedKey as error:
        raise ConfigurationError(
            f"broker {broker}: {key} (of certfile {certfile!r}) is encrypted: give it without a passphrase, readable "
            "for this user alone"
        ) from error
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"broker {broker}: certfile {certfile!r} and {key} don't fit together, or aren't PEM "
            f"({error.reason or 'unknown form'})"
        ) from error


class EncryptedKey(Exception):
    """OpenSSL asks for a passphrase."""


def _no_passphrase() -> str:
    raise EncryptedKey


def _readable(broker: Broker, option: str, path: str) -> None:
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise ConfigurationError(
            f"broker {broker}: {option} {path!r} can't be read: {error.strerror}; check the path and its rights"
        ) from error
