"""Where HTTP is served: what the setting takes, and what it refuses."""

import pytest

from busworker.addresses import Address, parse_address
from busworker.errors import ConfigurationError
from busworker.supervisor.web import listen


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        (":9100", Address("", 9100), "http://*:9100"),
        ("127.0.0.1:0", Address("127.0.0.1", 0), "http://127.0.0.1:0"),
        ("[::1]:9100", Address("::1", 9100), "http://[::1]:9100"),
        ("bus.internal:65535", Address("bus.internal", 65535), "http://bus.internal:65535"),
        ("unix:/run/shop/http", Address(path="/run/shop/http"), "unix:/run/shop/http"),
    ],
)
def test_an_address_is_read_and_shown(text: str, address: Address, shown: str) -> None:
    assert parse_address(text, "--http") == address
    assert str(address) == shown


@pytest.mark.parametrize(
    "text",
    [
        "9100",
        "localhost",
        "::1:9100",
        ":",
        ":http",
        ":65536",
        ":-1",
        ":²",
        ":" + 5000 * "9",
        "unix:",
        "unix:run",
        "unix:/" + 107 * "x",
    ],
)
def test_what_names_no_address_is_an_error_that_says_what_does(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--http: .*: write "):
        parse_address(text, "--http")


@pytest.mark.parametrize("host", ["a..b", "\udcff", 64 * "x"])
def test_a_host_that_can_have_no_address_is_an_error_that_says_so(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--http: .* can't be used: .* names no host; "):
        listen(Address(host, 0))
