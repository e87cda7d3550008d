"""Broker URLs: what they name, which are refused, and that no password shows."""

import logging
import ssl
import traceback
from pathlib import Path
from urllib.parse import quote

import amqp.exceptions as refused
import kombu
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import OperationalError

from busworker.broker import connection
from busworker.broker.connection import translated
from busworker.brokers import AMQP, EMBEDDED, HEARTBEAT, OPTIONS, Broker, Tls, parse
from busworker.errors import BrokerUnavailable, ConfigurationError
from busworker.urls import bus_identity, hide_password, shown
from tests.support.certificates import Certificates

SPECIAL = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """For tests that leave them as they are."""
    made = Certificates.make(tmp_path_factory.mktemp("certificates") / "tls")
    made.encrypt_key("client", "pass")
    return made


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
        ("amqps://h", Broker("amqps://h", "amqps", "quorum", tls=Tls())),
        ("amqp://h?heartbeat=7", Broker("amqp://h", "amqp", "quorum", heartbeat=7)),
        (
            "amqps://h/v?cacertfile=/a+b%20%40&certfile=/c&keyfile=/k&server_name_indication=r&verify=verify_peer",
            Broker("amqps://h/v", "amqps", "quorum", tls=Tls("/a+b @", "/c", "/k", "r")),
        ),
        ("amqps://h?verify=verify_none", Broker("amqps://h", "amqps", "quorum", tls=Tls(verify=False))),
        (
            "amqps://h?auth_mechanism=external&certfile=/c",
            Broker("amqps://h", "amqps", "quorum", tls=Tls(certfile="/c"), external=True),
        ),
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


def test_an_option_that_does_not_exist_lists_those_that_do() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse("amqp://h?durability=normal")
    assert "'durability'" in str(caught.value)
    assert all(name in str(caught.value) for name in OPTIONS)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("queue_type=lazy", "queue_type='lazy': use quorum or classic"),
        ("queue_type=", "give queue_type one value"),
        ("queue_type", "give queue_type one value"),
        ("queue_type=quorum&queue_type=classic", "give queue_type one value"),
        ("heartbeat=0", "can't be switched off"),
        ("heartbeat=3601", "from 1 to 3600"),
        ("heartbeat=-5", "whole seconds"),
        ("heartbeat=2.5", "whole seconds"),
        ("heartbeat=\u0665", "whole seconds"),
        ("heartbeat=" + "9" * 5000, "whole seconds"),
        ("verify=none", "verify_peer or verify_none"),
        ("cacertfile=ca.pem", "the whole path"),
        ("keyfile=/k", "give certfile too"),
        ("auth_mechanism=external", "give certfile"),
        ("auth_mechanism=gssapi", "plain or external"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(query: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse(f"amqps://h?{query}")


@pytest.mark.parametrize("option", ["cacertfile=/c", "certfile=/c", "server_name_indication=h", "verify=verify_none"])
def test_options_of_tls_need_tls(option: str) -> None:
    with pytest.raises(ConfigurationError, match="is an option of amqps://"):
        parse(f"amqp://h?{option}")


def test_each_of_several_brokers_has_options_of_its_own() -> None:
    found = parse("amqps://a?cacertfile=/a&heartbeat=5;amqps://b")
    assert [(one.tls, one.heartbeat) for one in found] == [(Tls("/a"), 5), (Tls(), HEARTBEAT)]


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
        "amqp://user:SEC RET@h",
        "amqp://user:SECRET;SECRET@h",
        "amqp://user:1?SECRET@h",
        "amqp://user:1?heartbeat=SECRET@h",
        "amqp://user:1#SECRET@h",
        "amqp://user:1/SECRET@h/v",
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


@given(user=SPECIAL, password=SPECIAL, vhost=SPECIAL)
def test_whatever_user_password_and_virtual_host_are_kombu_gets_them(user: str, password: str, vhost: str) -> None:
    codes = [quote(text, safe="") for text in (user, password, vhost)]
    url = "amqp://{}:{}@h/{}".format(*codes)
    with kombu.Connection(parse(url)[0].url) as connection:
        told = connection.info()
    assert (told["userid"], told["password"], told["virtual_host"]) == (user, password, vhost)
    assert hide_password(url) == shown(url) == f"amqp://{codes[0]}:***@h/{codes[2]}"


@pytest.mark.parametrize("path", ["", "/", "//", "/%2F", "/%2f"])
def test_the_default_virtual_host_has_several_spellings(path: str) -> None:
    with kombu.Connection(parse(f"amqp://h{path}")[0].url) as connection:
        assert connection.info()["virtual_host"] == "/"
    assert bus_identity(f"amqp://h{path}") == "amqp://h:5672//"


@pytest.mark.parametrize(("url", "seconds"), [("amqp://h", HEARTBEAT), ("amqps://h?heartbeat=7", 7)])
def test_heartbeats_are_asked_for_by_who_sends_them(url: str, seconds: int) -> None:
    for heartbeats, asked in ((True, seconds), (False, 0)):
        with connection._made(parse(url)[0], None, 1.0, heartbeats=heartbeats) as made:
            assert made.heartbeat == asked


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("amqps://u:p@Rabbit.example:1/v", {"server_hostname": "rabbit.example"}),
        ("amqps://", {"server_hostname": "localhost"}),
        ("amqps://[::1]", {"server_hostname": "::1"}),
        ("amqps://h?server_name_indication=other", {"server_hostname": "other"}),
        ("amqps://h?verify=verify_none", {"cert_reqs": ssl.CERT_NONE}),
    ],
)
def test_with_tls_the_name_of_the_broker_is_checked(url: str, checked: dict[str, object]) -> None:
    with connection._made(parse(url)[0], None, 1.0) as made:
        assert made.ssl == checked


@pytest.mark.parametrize(
    ("option", "method"), [("", "PLAIN"), ("&auth_mechanism=plain", "PLAIN"), ("&auth_mechanism=external", "EXTERNAL")]
)
def test_a_client_certificate_replaces_the_password_only_where_that_is_asked_for(
    option: str, method: str, certificates: Certificates, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.write_text(certificates.key("client").read_text() + certificates.certificate("client").read_text())
    with connection._made(parse(f"amqps://h?certfile={both}{option}")[0], None, 1.0) as made:
        assert made.login_method == method
        assert made.ssl == {"certfile": str(both), "server_hostname": "h"}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("cacertfile={0}/none.pem", "cacertfile '{0}/none.pem' can't be read: No such file"),
        ("cacertfile={0}", "cacertfile '{0}' can't be read: Is a directory"),
        ("cacertfile={0}/client.key", "cacertfile '{0}/client.key' holds no certificates"),
        ("certfile={0}/none.pem", "certfile '{0}/none.pem' can't be read: No such file"),
        ("certfile={0}/client.pem", "certfile '{0}/client.pem' and its key in the same file don't fit"),
        ("certfile={0}/client.pem&keyfile={0}/none", "keyfile '{0}/none' can't be read: No such file"),
        ("certfile={0}/client.pem&keyfile={0}/server.key", "keyfile '{0}/server.key' don't fit together"),
        ("certfile={0}/client.pem&keyfile={0}/client.secret", "keyfile '{0}/client.secret' (of certfile '"),
    ],
)
def test_a_file_of_tls_that_is_wrong_is_named(query: str, said: str, certificates: Certificates) -> None:
    broker = parse(f"amqps://u:SECRET@h?{query.format(certificates.folder)}")[0]
    with pytest.raises(ConfigurationError) as caught:
        connection.connect(broker)
    assert said.format(certificates.folder) in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (refused.AccessRefused("no"), ConfigurationError),
        (refused.NotAllowed("no"), ConfigurationError),
        (refused.PreconditionFailed("delivery acknowledgement on channel 1 timed out"), BrokerUnavailable),
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
