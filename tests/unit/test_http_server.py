"""HTTP as bytes: what is a request, and what an answer looks like."""

from http import HTTPStatus

import pytest

from busworker.http.server import Request, Response, encode_response, parse_request


def test_a_request_is_read_whatever_else_it_says() -> None:
    head = b"GET /metrics?name=x HTTP/1.1\r\nHost: h\r\nACCEPT: text/plain\r\naccept:  */*\r\n\r\n"
    assert parse_request(head) == Request("GET", "/metrics", "text/plain,*/*")


@pytest.mark.parametrize(
    "line", [b"", b"GET", b"GET /", b"GET http://h/ HTTP/1.1", b"GET / HTTP/2", b"\x16\x03\x01 / HTTP/1.1", b"\xff / x"]
)
def test_what_is_no_request_is_none(line: bytes) -> None:
    assert parse_request(line + b"\r\nHost: h\r\n\r\n") is None


def test_an_answer_to_head_tells_the_length_and_has_no_body() -> None:
    response = Response(HTTPStatus.OK, b"live\n")
    whole, head = encode_response(response, body=True), encode_response(response, body=False)
    assert whole == head + b"live\n"
    assert b"\r\nContent-Length: 5\r\n" in head
    assert b"Allow: GET, HEAD" in encode_response(Response(HTTPStatus.METHOD_NOT_ALLOWED, b""), body=True)
