"""TLS to a real node: who is trusted, who is refused, and that a session works through it."""

import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from busworker.broker.connection import connect
from busworker.broker.session import Settled
from busworker.brokers import parse
from busworker.errors import BrokerUnavailable, ConfigurationError
from busworker.message import Outgoing
from tests.contract.bench import Bench, event, fetched, ids
from tests.support import Home
from tests.support.rabbitmq_keeper import RabbitMQ

MANY = 200
LARGE = 300_000
"""Bytes: many TLS records (RFC 8446, 5.1: 16 KiB each) and several AMQP frames."""
CONNECTING = """
import sys
from busworker.broker.connection import connect
from busworker.brokers import parse
connect(parse(sys.argv[1])[0]).release()
"""


def without(url: str, *options: str) -> str:
    """The URL without these options."""
    head, _, query = url.partition("?")
    return f"{head}?{'&'.join(part for part in query.split('&') if part.partition('=')[0] not in options)}"


def connects(url: str) -> bool:
    connection = connect(parse(url)[0])
    connected = bool(connection.connected)
    connection.release()
    return connected


@pytest.fixture
def as_address(amqps_url: str) -> str:
    """The same node by its address, which its certificate doesn't name."""
    return amqps_url.replace("localhost", "127.0.0.1")


def test_a_session_publishes_fetches_and_settles_through_tls(amqps_url: str, home: Home) -> None:
    with Bench(amqps_url, home) as bench:
        session = bench.session()
        queue = session.declare_work("user.registered", "email", "welcome")
        large = Outgoing("busworker", "user.registered", b"x" * LARGE, {"message_id": "large"}, {})
        session.publish([*(event(message_id=str(number)) for number in range(MANY)), large])
        session.consume(queue, MANY + 1)
        arrived = fetched(session, MANY + 1, MANY + 1)
        assert ids(arrived) == [*map(str, range(MANY)), "large"]
        assert len(arrived[-1].body) == LARGE
        session.settle([Settled(delivery.tag, "ack") for delivery in arrived])


def test_the_name_of_the_broker_is_checked(as_address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"not valid for '127\.0\.0\.1'") as caught:
        connect(parse(as_address)[0])
    assert "server_name_indication" in str(caught.value)
    assert connects(f"{as_address}&server_name_indication=rabbit.example")
    with pytest.raises(ConfigurationError, match=r"not valid for 'other\.example'"):
        connect(parse(f"{as_address}&server_name_indication=other.example")[0])


def test_the_chain_is_checked(amqps_url: str) -> None:
    with pytest.raises(ConfigurationError, match="self-signed certificate"):
        connect(parse(without(amqps_url, "cacertfile"))[0])


def test_without_an_authority_those_of_the_system_count(amqps_url: str, rabbitmq: RabbitMQ) -> None:
    # OpenSSL looks there instead (SSL_CTX_set_default_verify_paths(3)).
    env = {"SSL_CERT_FILE": str(rabbitmq.certificates.ca)}
    command = [sys.executable, "-c", CONNECTING, without(amqps_url, "cacertfile")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_is_checked_where_that_is_asked_for(as_address: str) -> None:
    assert connects(f"{without(as_address, 'cacertfile')}&verify=verify_none")


def test_a_broker_that_wants_a_certificate_is_told_of(amqps_url: str) -> None:
    # In TLS 1.3 either its alert arrives or the end of the connection does: not for us to choose.
    with pytest.raises((BrokerUnavailable, ConfigurationError), match="certfile and keyfile in the URL"):
        connect(parse(without(amqps_url, "certfile", "keyfile"))[0])


def test_the_client_certificate_may_say_who_we_are(amqps_url: str) -> None:
    url = amqps_url.replace("guest:guest@", "")
    assert connects(f"{url}&auth_mechanism=external")


def test_a_client_certificate_does_not_replace_the_password_by_itself(amqps_url: str) -> None:
    with pytest.raises(ConfigurationError, match="using authentication mechanism PLAIN"):
        connect(parse(amqps_url.replace("guest:guest@", "guest:wrong@"))[0])


def test_a_port_without_tls_is_told_of(amqps_url: str, rabbitmq: RabbitMQ) -> None:
    plain, tls = urlsplit(rabbitmq.base_url).port, urlsplit(amqps_url).port
    with pytest.raises(ConfigurationError, match="doesn't speak TLS on that port"):
        connect(parse(amqps_url.replace(f":{tls}", f":{plain}"))[0])
