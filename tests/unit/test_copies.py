"""Copies for retry queues, dead letters and replays: what they keep, what they leave out, what fits into a frame."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from amqp.serialization import dumps
from hypothesis import given
from hypothesis import strategies as st

from busworker import copies
from busworker.copies import (
    ATTEMPTS,
    DEAD_AT,
    ERROR,
    FRAME_ROOM,
    LETTER_HEADERS,
    OUR_HEADERS_LIMIT,
    REASON,
    WORKER,
    Letter,
    Target,
    cut,
    dead_copy,
    fitted_error,
    read_history,
    replay_copy,
    retry_copy,
)
from busworker.message import (
    ATTEMPT,
    HISTORY,
    OWN_PREFIX,
    READY_AT,
    REPLAY,
    TOPIC,
    Delivery,
    Headers,
    Outgoing,
    read_envelope,
)
from busworker.outcome import Error, WorkerInfo

WORK = "busworker.user.registered/email.welcome"
TARGET = Target("busworker.retry.5", WORK)
USER_ERROR = Error("ValueError", "no such user", "stack")
BODY = b'{"user_id": 42}\xff\x00'
KEPT = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "correlation_id": "c1",
    "reply_to": "answers",
    "message_id": "m1",
    "timestamp": datetime(2023, 11, 14, 22, 13, 20),
    "type": "anything",
    "app_id": "signup",
    "priority": 3,
}
DANGEROUS = {"user_id": "foreign", "expiration": "1000", "cluster_id": "x", "delivery_mode": 1}
BROKERS: Headers = {
    "x-death": [{"count": 1}],
    "x-first-death-exchange": "",
    "x-first-death-queue": "q",
    "x-last-death-reason": "expired",
    "x-delivery-count": 4,
    "CC": ["other"],
    "BCC": ["secret"],
}


def delivery(**fields: Any) -> Delivery:
    given: dict[str, Any] = {
        "tag": 1,
        "queue": WORK,
        "routing_key": "user.registered",
        "redelivered": True,
        "properties": KEPT | DANGEROUS,
        "headers": {"mine": [1, "two"], ATTEMPT: 2} | BROKERS,
        "body": BODY,
    }
    return Delivery(**(given | fields))


def letter(error: Error = USER_ERROR, **fields: Any) -> Letter:
    given: dict[str, Any] = {
        "reason": "exception",
        "attempts": 5,
        "dead_at": "2026-11-23T19:00:00.123Z",
        "worker": WorkerInfo("host", 7, "SIGSEGV", None, 1024),
    }
    return Letter(error=error, **(given | fields))


def retried(found: Delivery, attempt: int = 3) -> Outgoing:
    return retry_copy(found, read_envelope(found), attempt, TARGET, 1_700_000_005_000)


def dead(found: Delivery, why: Letter | None = None) -> Outgoing:
    return dead_copy(found, read_envelope(found), why or letter(), Target("", f"{WORK}/dead"))


def replayed(found: Delivery, entry: dict[str, object]) -> Outgoing:
    return replay_copy(found, read_envelope(found), entry, Target("busworker.back", WORK), 1_700_000_005_000)


def as_delivered(copy: Outgoing) -> Delivery:
    """The copy as the broker hands it out again."""
    return delivery(
        queue=copy.routing_key, routing_key=copy.routing_key, properties=copy.properties, headers=copy.headers
    )


def on_the_wire(headers: Headers) -> int:
    return len(dumps("F", [headers]))


# What every copy keeps and leaves out


@pytest.mark.parametrize("copy", [retried(delivery()), dead(delivery()), replayed(delivery(), {})])
def test_a_copy_has_the_original_bytes_the_whitelist_and_mode_2(copy: Outgoing) -> None:
    assert copy.body == BODY
    assert copy.properties == KEPT | {"delivery_mode": 2}
    assert copy.delay is None


@pytest.mark.parametrize("copy", [retried(delivery()), dead(delivery()), replayed(delivery(), {})])
def test_a_copy_has_the_publishers_headers_and_none_of_the_brokers(copy: Outgoing) -> None:
    assert copy.headers["mine"] == [1, "two"]
    assert not BROKERS.keys() & copy.headers.keys()
    assert copy.headers[TOPIC] == "user.registered"


def test_a_copy_goes_where_it_is_sent() -> None:
    assert (retried(delivery()).exchange, retried(delivery()).routing_key) == ("busworker.retry.5", WORK)
    assert (dead(delivery()).exchange, dead(delivery()).routing_key) == ("", f"{WORK}/dead")


def test_a_topic_header_wins_over_the_routing_key_in_every_copy() -> None:
    found = delivery(headers={TOPIC: "user.moved"}, routing_key=WORK)
    assert [copy.headers[TOPIC] for copy in (retried(found), dead(found), replayed(found, {}))] == ["user.moved"] * 3


def test_an_unreadable_topic_is_not_copied() -> None:
    assert retried(delivery(headers={TOPIC: 7})).headers[TOPIC] == "user.registered"


def test_a_foreign_message_without_id_stays_without() -> None:
    assert "message_id" not in retried(delivery(properties={})).properties


def test_a_retry_copy_changes_the_attempt_and_from_when_it_is_ready_and_nothing_else() -> None:
    first = retried(delivery(headers={"mine": 1, REPLAY: 2, HISTORY: "[]", READY_AT: 5}), 4)
    changed = {ATTEMPT: 4, READY_AT: 1_700_000_005_000}
    assert first.headers == {"mine": 1, REPLAY: 2, HISTORY: "[]", TOPIC: "user.registered"} | changed
    assert retried(as_delivered(first), 5).headers == first.headers | {ATTEMPT: 5}


# Dead letters


def test_a_dead_letter_says_why() -> None:
    headers = dead(delivery()).headers
    assert (headers[REASON], headers[ATTEMPTS], headers[ATTEMPT]) == ("exception", 5, 2)
    assert headers[DEAD_AT] == "2026-11-23T19:00:00.123Z"
    assert msgspec.json.decode(str(headers[ERROR])) == {
        "type": "ValueError",
        "message": "no such user",
        "traceback": "stack",
    }
    assert msgspec.json.decode(str(headers[WORKER])) == {
        "host": "host",
        "pid": 7,
        "signal": "SIGSEGV",
        "exit_code": None,
        "rss": 1024,
    }


def test_a_long_traceback_is_cut_in_the_middle() -> None:
    stack = "FIRST LINE\n" + "x" * 50_000 + "\nLAST LINE"
    error: Any = msgspec.json.decode(str(dead(delivery(), letter(Error("E", "m", stack))).headers[ERROR]))
    assert error["traceback"].startswith("FIRST LINE")
    assert error["traceback"].endswith("LAST LINE")
    assert "characters cut" in error["traceback"]
    assert len(error["traceback"]) > 4000


def ours(headers: Headers) -> Headers:
    return {name: value for name, value in headers.items() if name.startswith(OWN_PREFIX)}


any_text = st.text(st.characters(codec=None)) | st.integers(0, 20_000).map("x\u0001\ud800\U0001f600".__mul__)


@given(st.builds(Error, any_text, any_text, st.none() | any_text), st.lists(any_text, max_size=6))
def test_our_headers_stay_within_8_kib(error: Error, earlier: list[str]) -> None:
    history = msgspec.json.encode(
        [{"dead_at": "x", "error": {"message": text.encode("utf-8", "replace").decode()}} for text in earlier]
    )
    found = delivery(headers={HISTORY: history.decode(), TOPIC: "t" * 255, REPLAY: 3})
    headers = dead(found, letter(error)).headers
    assert on_the_wire(ours(headers)) <= OUR_HEADERS_LIMIT
    told = msgspec.json.decode(str(headers[ERROR]))
    assert set(told) == {"type", "message", "traceback"}


@given(any_text, any_text, st.integers(512, 9000))
def test_an_error_is_json_in_the_room_it_has(message: str, traceback: str, room: int) -> None:
    assert len(fitted_error(Error("E", message, traceback), room).encode()) <= room


@given(st.text(), st.integers(0, 200))
def test_a_cut_text_fits_and_keeps_both_ends(text: str, limit: int) -> None:
    part = cut(text, limit)
    assert len(part) <= limit or part == text
    if len(text) > limit > 60:
        assert part[0] == text[0]
        assert part[-1] == text[-1]


# Replays


def test_a_replay_is_as_new_in_the_next_generation() -> None:
    entry: dict[str, object] = {"reason": "exception", "attempts": 5}
    copy = replayed(as_delivered(dead(delivery(headers={"mine": 1, ATTEMPT: 5, REPLAY: 1}))), entry)
    assert (copy.headers[ATTEMPT], copy.headers[REPLAY], copy.headers["mine"]) == (1, 2, 1)
    assert copy.properties["message_id"] == "m1"
    assert read_history(copy.headers) == [entry]
    assert not set(LETTER_HEADERS) & copy.headers.keys()


def test_each_replay_appends_to_the_history_and_the_oldest_leave() -> None:
    found = delivery(headers={})
    for number in range(60):
        found = as_delivered(replayed(found, {"number": number, "error": {"type": "E", "message": "x" * 5000}}))
        found = as_delivered(dead(found))
    numbers = [entry["number"] for entry in read_history(found.headers) if isinstance(entry, dict)]
    assert numbers == list(range(60 - len(numbers), 60))
    assert len(numbers) >= 2
    assert len(str(found.headers[HISTORY])) <= OUR_HEADERS_LIMIT // 2


@pytest.mark.parametrize("value", [None, "", "{", "7", '{"a": 1}', b"\xff", 7, [1], "[" * 100_000])
def test_an_unreadable_history_counts_as_none(value: object) -> None:
    assert read_history({HISTORY: value}) == []
    assert read_history(replayed(delivery(headers={HISTORY: value}), {"n": 1}).headers) == [{"n": 1}]


# The frame


def test_the_largest_foreign_headers_are_left_out_when_a_frame_is_full() -> None:
    headers: Headers = {"small": "x", "big": "y" * 100_000, "other": "z" * 40_000}
    copy = dead(delivery(headers=headers))
    assert copy.headers["small"] == "x"
    assert copy.headers["other"] == "z" * 40_000
    assert "big" not in copy.headers


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text()
    | st.integers(0, 60_000).map("é".__mul__)
    | st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1))
    | st.just(Decimal("1.25")),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(max_size=20), parts, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(min_size=1, max_size=60), values, max_size=6))
def test_all_headers_of_a_copy_fit_into_a_frame(headers: Headers) -> None:
    for copy in (retried(delivery(headers=headers)), dead(delivery(headers=headers))):
        assert on_the_wire(copy.headers) <= FRAME_ROOM


def test_the_names_that_copies_exports_exist() -> None:
    assert all(hasattr(copies, name) for name in copies.__all__)
