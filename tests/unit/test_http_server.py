"""HTTP as bytes: what is a request, and what an answer looks like."""

from http import HTTPStatus

import pytest

from busworker.http.metrics import readable
from busworker.http.server import Request, Response, encode_response, parse_request


def test_a_request_is_read_whatever_else_it_says() -> None:
    head = b"GET /metrics?name=x HTTP/1.1\r\nHost: h\r\nACCEPT: text/plain\r\naccept:  */*\r\n\r\n"
    assert parse_request(head) == Request("GET", "/metrics", "text/plain,*/*")


@pytest.mark.parametrize(
    "line", [b"", b"GET", b"GET /", b"GET http://h/ HTTP/1.1", b"GET / HTTP/2", b"\x16\x03\x01 / HTTP/1.1", b"\xff / x"]
)
def test_what_is_no_request_is_none(line: bytes) -> None:
    assert parse_request(line + b"\r\nHost: h\r\n\r\n") is None


@pytest.mark.parametrize("version", ["x", "", "²", "1e5", "1.0.0.\nX: y", '"1.0.0"', 5000 * "9"])
def test_a_version_of_metrics_that_is_no_number_is_as_good_as_none(version: str) -> None:
    assert readable(f"text/plain;q=0.5,application/openmetrics-text; version={version};q=1") == ""
    good = "application/openmetrics-text; version=1.0.0 ; escaping=allow-utf-8,text/plain;version=0.0.4"
    assert readable(good) == good


def test_an_answer_to_head_tells_the_length_and_has_no_body() -> None:
    response = Response(HTTPStatus.OK, b"live\n")
    whole, head = encode_response(response, body=True), encode_response(response, body=False)
    assert whole == head + b"live\n"
    assert b"\r\nContent-Length: 5\r\n" in head
    assert b"Allow: GET, HEAD" in encode_response(Response(HTTPStatus.METHOD_NOT_ALLOWED, b""), body=True)
