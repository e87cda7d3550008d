"""Dead letters as data: what a stored message says, which subscriptions and letters are meant. No broker."""

import base64
import re
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busworker import copies, deadletters
from busworker.cli.output import encoded
from busworker.cli.reach import sighted
from busworker.errors import DecodeError
from busworker.exported import queue_at, read_line
from busworker.letters import (
    DeadLetter,
    Filter,
    Selector,
    fits,
    history_entry,
    parse_selector,
    queue_of,
    read_letter,
    split,
)
from busworker.message import Delivery, read_envelope
from busworker.outcome import Error, WorkerInfo
from busworker.settlement import REASONS

KNOWN = ["order.*/shop.audit", "user.registered/email.audit", "user.registered/email.welcome"]
WORK = "busworker.user.registered/email.welcome"


def delivery(queue: str = f"{WORK}/dead", **fields: Any) -> Delivery:
    given: dict[str, Any] = {
        "tag": 1,
        "queue": queue,
        "routing_key": queue,
        "redelivered": False,
        "properties": {"message_id": "m1", "timestamp": 1_700_000_000},
        "headers": {"x-busworker-topic": "user.registered", "mine": b"\xff"},
        "body": b'{"user_id": 42}',
    }
    return Delivery(**(given | fields))


def dead(**fields: Any) -> Delivery:
    """A delivery as a consumer dead-letters it."""
    original = delivery(WORK, routing_key="user.registered", **fields)
    letter = copies.Letter(
        reason="crash",
        attempts=5,
        dead_at="2026-11-23T19:00:00.123Z",
        error=Error("Crash", "killed by SIGSEGV", "stack"),
        worker=WorkerInfo("host", 7, "SIGSEGV", None, 1024),
    )
    copy = copies.dead_copy(original, read_envelope(original), letter, copies.Target("", f"{WORK}/dead"))
    return delivery(properties=copy.properties, headers=copy.headers, body=copy.body)


def test_a_dead_letter_says_how_it_ended() -> None:
    assert msgspec.to_builtins(read_letter(dead())) == {
        "id": "m1",
        "subscription": "user.registered/email.welcome",
        "topic": "user.registered",
        "reason": "crash",
        "attempts": 5,
        "published_at": "2023-11-14T22:13:20.000Z",
        "dead_at": "2026-11-23T19:00:00.123Z",
        "error": {"type": "Crash", "message": "killed by SIGSEGV", "traceback": "stack"},
        "worker": {"host": "host", "pid": 7, "signal": "SIGSEGV", "exit_code": None, "rss": 1024},
        "headers": {"mine": "\ufffd"},
        "body": {"user_id": 42},
        "body_base64": None,
        "history": [],
    }


def test_a_message_the_broker_dead_lettered_tells_its_reason() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5)  # as py-amqp gives it
    headers = {"x-death": [{"reason": "expired", "time": when}], "x-busworker-attempt": 3}
    letter = read_letter(delivery(headers=headers, properties={}))
    assert (letter.id, letter.reason, letter.attempts, letter.error) == (None, "expired", 2, None)
    assert letter.dead_at == "2026-01-02T03:04:05.000Z"


def test_an_unrouted_message_has_no_reason() -> None:
    letter = read_letter(delivery("busworker.unrouted", headers={"x-death": [{"reason": "expired"}]}))
    assert (letter.subscription, letter.reason, letter.dead_at, letter.error) == (None, None, None, None)
    assert (letter.worker, letter.attempts) == (None, 0)


def test_a_body_that_is_no_json_is_kept_as_bytes() -> None:
    letter = read_letter(delivery(body=b"\xff\x00"))
    assert (letter.body, letter.body_base64) == (None, "/wA=")
    assert read_letter(delivery(body=b"1"), with_bytes=True).body_base64 == "MQ=="


def test_replayed_history_keeps_the_earlier_deaths() -> None:
    letter = read_letter(dead())
    entry = history_entry(letter, 1_800_000_000)
    copy = copies.replay_copy(dead(), read_envelope(dead()), entry, copies.Target("busworker.back", WORK), 1)
    again = read_letter(delivery(headers=copy.headers, properties=copy.properties))
    assert again.history == [entry]
    assert entry["replayed_at"] == "2027-01-15T08:00:00.000Z"
    assert set(entry) == {"dead_at", "reason", "attempts", "error", "replayed_at"}
    assert (copy.headers["x-busworker-attempt"], copy.headers["x-busworker-replay"]) == (1, 1)
    assert (again.id, again.reason) == ("m1", None)


OWN = tuple(
    f"x-busworker-{name}"
    for name in ("attempt", "attempts", "dead-at", "error", "history", "reason", "replay", "topic", "worker")
)
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.sampled_from(['{"type":7}', "[]", "[1]", '{"pid":"x","host":[]}', "{", "9999-12-31T23:59:59-23:59", *REASONS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    queue=st.sampled_from([f"{WORK}/dead", "busworker.unrouted", "foreign"]),
    headers=st.dictionaries(
        st.sampled_from([*OWN, "x-death", "CC"]) | st.text(st.characters(codec=None), max_size=63), ODD
    ),  # names have 255 bytes at most in AMQP
    properties=st.dictionaries(st.sampled_from(["message_id", "timestamp", "correlation_id"]), ODD),
    body=st.binary() | st.sampled_from([b"null", b"NaN", b'"\\ud800"', b"[" * 5000, b"1" * 5000, b"1e999"]),
)
def test_whatever_a_message_holds_it_is_read_written_and_made_from_that_again(
    queue: str, headers: dict[str, object], properties: dict[str, object], body: bytes
) -> None:
    letter = read_letter(delivery(queue, headers=headers, properties=properties, body=body), with_bytes=True)
    line = encoded(letter)
    document = msgspec.json.decode(line)
    assert list(document) == list(DeadLetter.__struct_fields__)
    assert base64.b64decode(document["body_base64"]) == body
    assert document["reason"] is None or document["reason"] in REASONS
    assert document["attempts"] >= 0
    for name in ("published_at", "dead_at"):
        moment = document[name]
        assert moment is None or (moment.endswith("Z") and datetime.fromisoformat(moment).tzinfo is UTC)
    assert isinstance(fits(letter, Filter(before=1e9, reason="crash")), bool)
    msgspec.json.encode(history_entry(letter, 0))
    made = read_line(line)
    fields = {"routing_key": made.routing_key, "properties": made.properties, "headers": made.headers}
    again = delivery(queue_at(made), body=made.body, **fields)
    assert again.body == body
    assert msgspec.json.decode(encoded(read_letter(again, with_bytes=True))) == document


def exported(**changes: object) -> bytes:
    return encoded(msgspec.to_builtins(read_letter(dead(), with_bytes=True)) | changes)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "no dead letter as dead export prints them"),
        (b"{}", "missing required field `id`"),
        (b"[" * 100_000, "no dead letter"),
        (exported(body_base64=None), "body_base64 is null"),
        (exported(body_base64="€"), "body_base64"),
        (exported(body={"user_id": 43}), "body can't be kept as it is"),
        (exported(subscription="email"), "subscription can't be kept"),
        (exported(headers={"x-busworker-alone": 1}), "headers can't be kept"),
        (exported(headers={"CC": ["other"]}), "headers can't be kept"),
        (exported(headers={"big": 2**63}), "headers can't be kept"),
        (exported(headers={"x" * 256: 1}), "255 bytes"),
        (exported(headers={"x": "y" * 130_000}), "AMQP has 129,024"),
        (exported(id="m" * 256), "id can't be kept"),
        (exported(published_at="soon"), "published_at='soon' is no time"),
        (exported(dead_at="soon"), "dead_at can't be kept"),
        (exported(reason="sadness"), "reason can't be kept"),
        (exported(attempts=-1), "attempts can't be kept"),
    ],
)
def test_a_line_that_would_become_another_letter_is_refused(line: bytes, said: str) -> None:
    with pytest.raises(DecodeError, match=re.escape(said)):
        read_line(line)


# Which are meant


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("email", Selector("email")),
        ("email.welcome", Selector("email", None, "welcome")),
        ("user.registered/email", Selector("email", "user.registered")),
        ("user.*/email.welcome", Selector("email", "user.*", "welcome")),
        ("unrouted", Selector("unrouted")),
        ("unrouted.x", None),
        ("a/b/c", None),
        ("Email", None),
        ("a.b.c", None),
        ("\udcff/shop.mail", None),  # a byte on the command line that is no UTF-8
        ("", None),
    ],
)
def test_selectors_are_read(text: str, selector: Selector | None) -> None:
    assert parse_selector(text) == selector


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("email", KNOWN[1:]),
        ("email.audit", KNOWN[1:2]),
        ("order.*/shop", KNOWN[:1]),
        ("user.registered/email.welcome", KNOWN[2:]),
        ("user.registered/shop", []),
    ],
)
def test_a_selector_means_the_subscriptions_that_match(text: str, names: list[str]) -> None:
    selector = parse_selector(text)
    assert selector is not None
    assert [name for name in KNOWN if selector.matches(name)] == names


@pytest.mark.parametrize(
    ("arguments", "selector", "ids"),
    [
        ([], None, ()),
        (["email"], Selector("email"), ()),
        (["email", "email"], Selector("email"), ("email",)),
        (["m1", "email"], None, ("m1", "email")),
        (["unrouted", "m1"], Selector("unrouted"), ("m1",)),
    ],
)
def test_the_first_argument_is_a_selector_if_it_matches(
    arguments: list[str], selector: Selector | None, ids: tuple[str, ...]
) -> None:
    assert split(arguments, KNOWN) == (selector, ids)


def test_without_a_selector_the_applications_subscriptions_are_meant_else_all() -> None:
    assert sighted([], KNOWN, [])[0] == [queue_of(name) for name in KNOWN]
    assert sighted(["m1"], KNOWN, ["a/new.c"]) == ([queue_of("a/new.c")], ("m1",))
    assert sighted(["unrouted"], KNOWN, []) == (["busworker.unrouted"], ())
    assert sighted(["email.audit", "m1"], KNOWN, []) == ([queue_of(KNOWN[1])], ("m1",))


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        (Filter(), True),
        (Filter(ids=frozenset({"m1", "m2"})), True),
        (Filter(ids=frozenset({"m2"})), False),
        (Filter(reason="crash"), True),
        (Filter(reason="expired"), False),
        (Filter(before=datetime(2026, 11, 23, 19, 0, 1, tzinfo=UTC).timestamp()), True),
        (Filter(before=datetime(2026, 11, 23, 19, 0, 0, tzinfo=UTC).timestamp()), False),
    ],
)
def test_filters(wanted: Filter, meant: bool) -> None:
    assert fits(read_letter(dead()), wanted) is meant


def test_what_has_no_date_is_not_older_than_any() -> None:
    assert not fits(read_letter(delivery(properties={}, headers={})), Filter(before=4e9))
    assert fits(read_letter(delivery("busworker.unrouted")), Filter(before=1_700_000_001))


def test_lists_are_in_the_order_of_deaths() -> None:
    letters = [msgspec.structs.replace(read_letter(dead()), dead_at=when) for when in ("2026", None, "2027", "2025")]
    orders = [deadletters.newest(letters, limit, newest_first=first) for limit, first in ((None, True), (2, False))]
    assert [[one.dead_at for one in order] for order in orders] == [["2027", "2026", "2025", None], ["2025", "2026"]]
