"""What RabbitMQ says of declarations it refuses, and what we make of it. The texts are those of 3.10.8."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busworker.broker.mismatch import Mismatch, explain, read, without_limit

WORK = "busworker.user.registered/email.welcome"
START = "Queue.declare: (406) PRECONDITION_FAILED - inequivalent arg"


@pytest.mark.parametrize(
    ("argument", "received", "current", "found"),
    [
        ("x-queue-type", "'classic'", "'quorum'", "quorum"),
        ("x-queue-type", "the value 'quorum' of type 'longstr'", "none", None),
        ("x-message-ttl", "'6000'", "'5000'", "5000"),
        ("x-message-ttl", "none", "the value '5000' of type 'signedint'", "5000"),
        ("durable", "'true'", "'false'", "false"),
        ("x-dead-letter-exchange", "none", "the value '' of type 'longstr'", ""),
        ("x-dead-letter-routing-key", "'other' in vhost 'x'", "'it's 'odd''", "it's 'odd'"),
    ],
)
@pytest.mark.parametrize("thing", ["queue 'b'", "queue 'it's'", "exchange 'e'"])
def test_what_differs_is_read(thing: str, argument: str, received: str, current: str, found: str | None) -> None:
    text = f"{START} '{argument}' for {thing} in vhost '/': received {received} but current is {current}"
    assert read(text) == Mismatch(argument, found, told=True)


def test_a_text_that_is_cut_tells_the_argument() -> None:
    assert read(f"{START} 'x-delivery-limit' for queue '{'L' * 178}...") == Mismatch("x-delivery-limit", told=False)


@pytest.mark.parametrize(
    "said",
    [
        "'x-max-priority' for queue 'bad' in vhost '/' of queue type rabbit_quorum_queue",
        "'x-queue-type' for queue 'bad2' in vhost '/': \"unsupported queue type 'nosuch'\"",
        "'x-message-ttl' for queue 'bad3' in vhost '/': {value_negative,-5}",
    ],
)
def test_what_the_broker_does_not_take_is_read(said: str) -> None:
    found = read(f"Queue.declare: (406) PRECONDITION_FAILED - invalid arg {said}")
    assert found is not None
    assert found.invalid
    assert "which the broker doesn't take" in explain("queue", WORK, {}, found)


@pytest.mark.parametrize(
    "text",
    [
        "(0, 0): (406) PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out",
        "Basic.ack: (406) PRECONDITION_FAILED - unknown delivery tag 77",
        "Basic.publish: (406) PRECONDITION_FAILED - invalid expiration 'abc': no_integer",
        "Queue.delete: (406) PRECONDITION_FAILED - queue 'ne' in vhost '/' not empty",
        "unknown delivery tag 3",
        "",
    ],
)
def test_other_failures_are_no_mismatch(text: str) -> None:
    assert read(text) is None


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    read(text)
    read(f"{START} {text}")
    found = read(f"{START} 'x-max-length' for queue 'q' in vhost '/': received '1' but current is '{text}'")
    assert found is not None


@pytest.mark.parametrize(
    ("kind", "name", "wanted", "found", "told"),
    [
        (
            *("queue", WORK, {"x-queue-type": "quorum"}, Mismatch("x-queue-type", "classic", told=True)),
            f"queue '{WORK}' exists with x-queue-type 'classic', not 'quorum': give ?queue_type=classic in the "
            "broker's URL, or delete it once it is empty",
        ),
        (  # always quorum: the URL says nothing about it
            *("queue", "busworker.retry.5", {"x-queue-type": "quorum"}),
            Mismatch("x-queue-type", "classic", told=True),
            "queue 'busworker.retry.5' exists with x-queue-type 'classic', not 'quorum': delete it once it is empty",
        ),
        (
            *("queue", WORK, {"durable": True}, Mismatch("durable", "false", told=True)),
            f"queue '{WORK}' exists with durable 'false', not 'true': delete it",
        ),
        (
            *("queue", WORK, {}, Mismatch("x-max-length", "5", told=True)),
            f"queue '{WORK}' exists with x-max-length '5', not none: delete it",
        ),
        (
            *("queue", WORK, {"x-message-ttl": 5000}, Mismatch("x-message-ttl")),
            f"queue '{WORK}' exists with x-message-ttl otherwise, not '5000': delete it",
        ),
        (
            *("exchange", "busworker", {"type": "topic"}, Mismatch("type", "direct", told=True)),
            "exchange 'busworker' exists with type 'direct', not 'topic': delete it",
        ),
    ],
)
def test_a_mismatch_is_one_line_with_the_way_out(
    kind: str, name: str, wanted: dict[str, object], found: Mismatch, told: str
) -> None:
    text = explain(kind, name, wanted, found)
    assert text.startswith(told)
    assert "\n" not in text


@pytest.mark.parametrize(
    ("found", "arguments"),
    [
        (Mismatch("x-delivery-limit", "5", told=True), {"x-queue-type": "quorum", "x-delivery-limit": 5}),
        (Mismatch("x-delivery-limit", None, told=True), {"x-queue-type": "quorum"}),
        (Mismatch("x-delivery-limit", "many", told=True), None),
        (Mismatch("x-delivery-limit"), None),
        (Mismatch("x-delivery-limit", invalid=True), None),
        (Mismatch("x-queue-type", "classic", told=True), None),
    ],
)
def test_a_queues_own_delivery_limit_is_taken_over(found: Mismatch, arguments: dict[str, object] | None) -> None:
    assert without_limit({"x-queue-type": "quorum", "x-delivery-limit": -1}, found) == arguments
