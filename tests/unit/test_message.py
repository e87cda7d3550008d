"""The envelope of whatever a broker delivers, and the message that a handler sees."""

import string
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busworker.message import (
    ATTEMPT,
    REPLAY,
    TOPIC,
    Delivery,
    Envelope,
    Message,
    as_text,
    key_of,
    own_headers_removed,
    read_envelope,
    utc,
)


def delivery(**fields: Any) -> Delivery:
    given: dict[str, Any] = {
        "tag": 1,
        "queue": "busworker.user.registered/email.welcome",
        "routing_key": "user.registered",
        "redelivered": False,
        "properties": {"message_id": "m1", "timestamp": 1_700_000_000, "correlation_id": "c1"},
        "headers": {},
        "body": b"{}",
    }
    return Delivery(**(given | fields))


def test_our_own_envelope_is_read() -> None:
    headers = {ATTEMPT: 3, REPLAY: 1, TOPIC: "user.moved"}
    found = read_envelope(delivery(headers=headers))
    assert found == Envelope("m1", "user.moved", 3, 1, 1_700_000_000, "c1")


def test_a_bare_foreign_message_has_the_defaults() -> None:
    found = read_envelope(delivery(properties={"type": "other"}))
    assert found == Envelope(None, "user.registered", 1, 0, None, None)


@pytest.mark.parametrize("value", [0, -1, 2**31, "2", 2.0, True, None, b"2", [2]])
def test_an_unreadable_attempt_is_ignored(value: object) -> None:
    assert read_envelope(delivery(headers={ATTEMPT: value})).attempt == 1


@pytest.mark.parametrize("value", [-1, 2**31, "1", True, None])
def test_an_unreadable_generation_is_ignored(value: object) -> None:
    assert read_envelope(delivery(headers={REPLAY: value})).replay == 0


@pytest.mark.parametrize("value", ["", 7, None, b"id", "x" * 256, "é" * 128, ["m"]])
def test_an_unreadable_id_or_topic_is_ignored(value: object) -> None:
    found = read_envelope(delivery(properties={"message_id": value, "correlation_id": value}, headers={TOPIC: value}))
    assert (found.id, found.correlation_id, found.topic) == (None, None, "user.registered")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1_700_000_000, 1_700_000_000),
        (datetime(2023, 11, 14, 22, 13, 20), 1_700_000_000),
        (datetime(2023, 11, 15, 0, 13, 20, tzinfo=timezone(timedelta(hours=2))), 1_700_000_000),
        (-1, None),
        (2**63, None),
        (True, None),
        ("now", None),
        (1.5, None),
    ],
)
def test_a_timestamp_is_unix_seconds_or_unknown(value: object, seconds: int | None) -> None:
    assert read_envelope(delivery(properties={"timestamp": value})).published_at == seconds


odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.datetimes()
    | st.decimals(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text() | st.binary(), parts, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([ATTEMPT, REPLAY, TOPIC, "mine", "x-death"]) | st.text(string.ascii_letters, max_size=5)
properties = st.sampled_from(["message_id", "timestamp", "correlation_id", "type", "priority"])


@given(st.dictionaries(properties, odd), st.dictionaries(names, odd), st.text(st.characters(codec=None)))
def test_whatever_was_delivered_is_read(given_properties: Any, headers: Any, routing_key: str) -> None:
    found = delivery(properties=given_properties, headers=headers, routing_key=routing_key)
    envelope = read_envelope(found)
    assert envelope.attempt >= 1
    assert envelope.replay >= 0
    assert envelope.topic.encode() is not None
    assert len(key_of(found, envelope)) == 16
    msgspec.json.encode(own_headers_removed(headers))
    msgspec.msgpack.encode(own_headers_removed(headers))


def key(**fields: Any) -> bytes:
    found = delivery(**fields)
    return key_of(found, read_envelope(found))


def test_the_key_is_of_queue_id_attempt_and_generation() -> None:
    others = [
        key(),
        key(queue="busworker.user.registered/email.audit"),
        key(properties={"message_id": "m2"}),
        key(headers={ATTEMPT: 2}),
        key(headers={REPLAY: 1}),
    ]
    assert len(set(others)) == len(others)
    assert key() == key(tag=9, redelivered=True, body=b"other", headers={"mine": 1})


def test_without_an_id_the_key_is_of_properties_and_body() -> None:
    bare = {"timestamp": 1}
    others = [
        key(properties=bare),
        key(properties={"timestamp": 2}),
        key(properties=bare, body=b"other"),
        key(properties=bare, queue="another"),
        key(properties=bare, headers={ATTEMPT: 2}),
    ]
    assert len(set(others)) == len(others)
    assert key(properties={"a": 1, "b": 2}) == key(properties={"b": 2, "a": 1}, redelivered=True)


def test_a_handler_sees_the_publishers_headers_only() -> None:
    headers = {
        "mine": "x",
        ATTEMPT: 2,
        "x-busworker-later": 1,
        "x-death": [],
        "x-first-death-queue": "q",
        "x-last-death-reason": "r",
        "x-delivery-count": 3,
        "CC": [],
        "BCC": [],
    }
    assert own_headers_removed(headers) == {"mine": "x"}


def test_header_values_become_what_a_frame_can_carry() -> None:
    seen = own_headers_removed({"n": 2**70, "d": Decimal("1.5"), "t": (1, "\ud800"), "m": {b"\xff": 1}, "b": b"\xff"})
    assert seen == {"n": str(2**70), "d": "1.5", "t": [1, "?"], "m": {"\ufffd": 1}, "b": b"\xff"}


@pytest.mark.parametrize(("value", "text"), [(b"\xff", "\ufffd"), ("\ud800x", "?x"), (7, "7"), ("é", "é")])
def test_any_value_has_a_text(value: object, text: str) -> None:
    assert as_text(value) == text


def test_a_time_that_no_calendar_holds_is_unknown() -> None:
    assert utc(0) == datetime(1970, 1, 1, tzinfo=UTC)
    assert [utc(None), utc(2**62), utc(float("nan"))] == [None, None, None]


def message(**fields: Any) -> Message:
    given: dict[str, Any] = dict.fromkeys(("published_at", "correlation_id"))
    given |= {"id": "m1", "topic": "a", "channel": "s.c", "attempt": 1, "max_attempts": 8, "headers": {}, "body": b""}
    return Message(**(given | fields))


def test_extending_moves_the_limit_of_this_attempt() -> None:
    asked: list[float] = []
    message(_extend=asked.append).extend(30)
    assert asked == [30]


def test_extending_without_a_limit_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="under a time limit"):
        message().extend(1)
