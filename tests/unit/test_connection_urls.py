"""Broker URLs: what they name, which are refused, and that no password shows."""

import logging
import traceback

import amqp.exceptions as refused
import kombu
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import OperationalError

from busworker.broker import connection
from busworker.broker.connection import translated
from busworker.brokers import AMQP, EMBEDDED, Broker, parse
from busworker.errors import BrokerUnavailable, ConfigurationError, TopologyMismatch
from busworker.urls import hide_password


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("filesystem:///var/lib/bus", Broker("filesystem:///var/lib/bus", "filesystem", None)),
        (
            "filesystem:///var/lib/bus?durability=normal",
            Broker("filesystem:///var/lib/bus?durability=normal", "filesystem", None),
        ),
        ("memory://", Broker("memory://", "memory", None)),
        ("memory://name", Broker("memory://name", "memory", None)),
        ("amqp://u:p@h:5673/v", Broker("amqp://u:p@h:5673/v", "amqp", "quorum")),
        ("amqps://h", Broker("amqps://h", "amqps", "quorum")),
        ("amqp://h?queue_type=classic", Broker("amqp://h", "amqp", "classic")),
        ("amqp://h/v?queue_type=quorum", Broker("amqp://h/v", "amqp", "quorum")),
        (" amqp://h ", Broker("amqp://h", "amqp", "quorum")),
        ("AMQP://h", Broker("amqp://h", "amqp", "quorum")),
        ("amqp://", Broker("amqp://localhost", "amqp", "quorum")),
        ("amqp:///v", Broker("amqp://localhost/v", "amqp", "quorum")),
    ],
)
def test_a_url_is_a_broker(url: str, broker: Broker) -> None:
    assert parse(url) == [broker]


def test_only_our_schemes_are_embedded() -> None:
    assert [parse(url)[0].embedded for url in ("filesystem:///x", "memory://", "amqp://", "amqps://")] == [
        True,
        True,
        False,
        False,
    ]


def test_several_brokers_are_tried_in_their_order() -> None:
    found = parse("amqp://b:1; amqp://a:2?queue_type=classic ;amqp://c:3;")
    assert [(broker.url, broker.queue_type) for broker in found] == [
        ("amqp://b:1", "quorum"),
        ("amqp://a:2", "classic"),
        ("amqp://c:3", "quorum"),
    ]


@pytest.mark.parametrize("url", ["redis://h", "http://h", "h", "amqp", "amqp:h", "://h", "/var/lib/bus", "amqpp://h"])
def test_an_unknown_scheme_lists_those_that_exist(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(url)
    assert all(f"{scheme}://" in str(caught.value) for scheme in (*EMBEDDED, *AMQP))
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize("url", ["", " ; ", "amqp://h;memory://", "amqp://h;amqps://h"])
def test_a_list_has_one_scheme(url: str) -> None:
    with pytest.raises(ConfigurationError, match="several of one scheme"):
        parse(url)


@pytest.mark.parametrize("url", ["amqp://h?queue_type=lazy", "amqp://h?durability=normal", "amqps://h?heartbeat=5"])
def test_an_option_that_does_not_exist_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="queue_type"):
        parse(url)


@pytest.mark.parametrize("url", ["amqp://[::1", "amqp://h:port", "amqp://h:99999999", "memory://[x"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is no URL"):
        parse(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:SECRET@h",
        "amqp://user:SECRET@h;memory://",
        "amqp://user:SECRET@h?option=1",
        "amqp://user:SECRET@h?password=SECRET",
        "amqp://user:SECRET@h:port",
        "amqp://user:se/SECRET@h",
        "amqp://user:SECRET\u2100@h",
    ],
)
def test_no_error_shows_a_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(url)
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))
    assert "user:***@" in str(caught.value)


@given(st.text() | st.from_regex(r"(amqps?|memory|filesystem)://[a-z:@/?&=;\[\]%0-9]*", fullmatch=True))
def test_any_text_is_brokers_or_refused(url: str) -> None:
    try:
        found = parse(url)
    except ConfigurationError:
        return
    assert found
    assert len({broker.scheme for broker in found}) == 1


# What kombu makes of them, without connecting


def test_kombu_reads_what_is_left_of_a_url() -> None:
    broker = parse("amqp://u:p%40@h:5673/v%2Fw?queue_type=classic")[0]
    with kombu.Connection(broker.url) as connection:
        told = connection.info()
    assert (told["hostname"], told["port"], told["userid"], told["password"], told["virtual_host"]) == (
        "h",
        5673,
        "u",
        "p@",
        "v/w",
    )


@pytest.mark.parametrize(
    ("url", "name"), [("amqps://u:p@Rabbit.example:1/v", "rabbit.example"), ("amqps://", "localhost")]
)
def test_with_tls_the_name_of_the_broker_is_checked(url: str, name: str) -> None:
    with connection._made(parse(url)[0], None, 1.0) as made:
        assert made.ssl == {"server_hostname": name}


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (refused.AccessRefused("no"), ConfigurationError),
        (refused.NotAllowed("no"), ConfigurationError),
        (refused.PreconditionFailed("inequivalent arg"), TopologyMismatch),
        (refused.ConnectionForced("shut down"), BrokerUnavailable),
        (OperationalError("no"), BrokerUnavailable),
        (ConnectionRefusedError(111, "refused"), BrokerUnavailable),
        (TimeoutError(), BrokerUnavailable),
        (AttributeError("drain_events"), BrokerUnavailable),
    ],
)
def test_what_a_broker_raises_is_named_after_what_to_do(raised: Exception, error: type[Exception]) -> None:
    broker = Broker("amqp://u:SECRET@h", "amqp", "quorum")
    with pytest.raises(error) as caught, translated(broker):
        raise raised
    assert caught.value.__cause__ is raised
    assert "amqp://u:***@h" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_of_ours_passes_through(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(BrokerUnavailable, match="disk full"), translated(parse("memory://")[0]):
        raise BrokerUnavailable("disk full")
    assert not caplog.records


@pytest.mark.parametrize("part", ["x", "?", "a://", "://", "a://b:", "?password", "&=", "@"])
def test_hiding_passwords_takes_long_texts(part: str) -> None:
    text = part * 20_000
    assert "hidden" not in hide_password(f"{text} amqp://me:hidden@host {text}")
