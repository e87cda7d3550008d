"""Events to bytes and back, checked against their type in both directions."""

import enum
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busworker import Bus, Topic
from busworker.errors import ConfigurationError, DecodeError, EncodeError
from busworker.ipc.frames import Handout
from busworker.outcome import Invalid
from busworker.payload import JSON_CODEC, MAX_BODY, Codec, MsgspecCodec, within_limit
from busworker.worker.attempt import Runner
from busworker.worker.limit import Look


class Plan(enum.Enum):
    FREE = "free"
    PAID = "paid"


@dataclass(frozen=True)
class Address:
    street: str
    number: int | None = None


@dataclass(frozen=True)
class Registered:
    user_id: int
    email: str
    plan: Plan = Plan.FREE
    addresses: tuple[Address, ...] = ()
    tags: dict[str, list[float]] = field(default_factory=dict)


class Moved(msgspec.Struct, frozen=True):
    user_id: int
    to: Address


class Counted(TypedDict):
    word: str
    count: int


@dataclass(frozen=True)
class Twin:
    user_id: int
    email: str


@dataclass
class Positive:
    """Its own check raises what msgspec doesn't translate."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise KeyError(self.number)


REGISTERED = Registered(7, "é@example.org", Plan.PAID, (Address("Main", 3), Address("Side")), {"x": [1.5]})

FITTING: list[tuple[Any, Any]] = [
    (Registered, REGISTERED),
    (Moved, Moved(1, Address("Main"))),
    (Counted, {"word": "a", "count": 2}),
    (int, 2**60),
    (str, "… \x00 \U0001f600"),
    (float, 0.1),
    (bool, True),
    (bytes, b"\x00\xff"),
    (datetime, datetime.fromisoformat("2026-11-23T19:00:00+00:00")),
    (list[int], [1, 2]),
    (dict[str, list[Address]], {"a": [Address("Main")]}),
    (object, {"a": [1, None]}),
    (dict[str, object], {"a": 1.5}),
    (list[Counted], [{"word": "a", "count": 2}]),
]


@pytest.mark.parametrize(("kind", "event"), FITTING, ids=[str(kind) for kind, _ in FITTING])
def test_an_event_comes_back_as_it_was(kind: Any, event: Any) -> None:
    codec: Codec[Any] = MsgspecCodec(kind)
    assert codec.decode(codec.encode(event)) == event


def test_the_body_is_plain_json() -> None:
    assert json.loads(MsgspecCodec(Registered).encode(REGISTERED)) == {
        "user_id": 7,
        "email": "é@example.org",
        "plan": "paid",
        "addresses": [{"street": "Main", "number": 3}, {"street": "Side", "number": None}],
        "tags": {"x": [1.5]},
    }


WRONG: list[tuple[Any, Any]] = [
    (Registered, Registered("7", "x")),  # type: ignore[arg-type]
    (Registered, Registered(7, "x", addresses=(Address(5),))),  # type: ignore[arg-type]
    (Registered, Twin(7, "x")),
    (Registered, {"user_id": 7, "email": "x"}),
    (Registered, None),
    (Moved, Moved(1, {"street": 5})),  # type: ignore[arg-type]
    (Counted, {"word": "a"}),
    (Counted, {"word": "a", "count": "2"}),
    (Counted, []),
    (int, "7"),
    (int, True),
    (int, 1.5),
    (str, 7),
    (str, "\ud800"),
    (float, float("nan")),
    (float | None, float("inf")),
    (list[float | None], [1.0, float("nan")]),
    (list[int], [1, "2"]),
    (dict[str, int], {"a": None}),
    (int, object()),
]


@pytest.mark.parametrize(("kind", "event"), WRONG)
def test_an_event_that_does_not_fit_is_refused_when_published(kind: Any, event: Any) -> None:
    codec: Codec[Any] = MsgspecCodec(kind)
    with pytest.raises(EncodeError):
        codec.encode(event)


def test_a_record_of_another_class_is_refused_by_name() -> None:
    with pytest.raises(EncodeError, match="this topic takes Registered, not Twin"):
        MsgspecCodec(Registered).encode(Twin(1, "x"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Registered, b""),
        (Registered, b"{"),
        (Registered, b"null"),
        (Registered, b'{"user_id": "7", "email": "x"}'),
        (Registered, b'{"user_id": 7}'),
        (Registered, b'{"user_id": 7, "email": "\xff"}'),
        (Registered, b'{"user_id": 7, "email": "x", "plan": "other"}'),
        (Moved, b'{"user_id": 1, "to": {"street": 5}}'),
        (Counted, b'{"word": "a", "count": 2.5}'),
        (int, b"1 2"),
        (int, b"true"),
        (str, b'"\\ud800"'),
        (list[int], b"[" * 100_000),
        (Any, b"[" * 100_000),
        (Any, b"\x80"),
    ],
)
def test_a_body_that_does_not_fit_is_refused_when_consumed(kind: Any, body: bytes) -> None:
    codec: Codec[Any] = MsgspecCodec(kind)
    with pytest.raises(DecodeError):
        codec.decode(body)


def test_a_foreign_body_may_hold_more_than_the_type_knows() -> None:
    assert MsgspecCodec(Twin).decode(b'{"user_id": 1, "email": "x", "new": [1]}') == Twin(1, "x")


def test_a_value_that_json_writes_as_null_may_stand_beside_a_real_null() -> None:
    codec: Codec[Any] = MsgspecCodec(Registered)
    assert codec.decode(codec.encode(Registered(1, "null", addresses=(Address("x"),)))).addresses[0].number is None


class Bare:
    pass


@dataclass
class Holder:
    bare: Bare
    default: Any = Bare


@pytest.mark.parametrize("kind", [object(), lambda: None, complex, Bare, Holder, list[Bare], dict[str, Holder]])
def test_a_type_that_is_no_json_is_refused_at_once(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match="can't be JSON"):
        MsgspecCodec(kind)


def test_a_body_over_16_mib_is_refused() -> None:
    codec = MsgspecCodec(str)
    assert len(codec.encode("x" * (MAX_BODY - 2))) == MAX_BODY
    with pytest.raises(EncodeError, match="over the limit of 16,777,216"):
        codec.encode("x" * (MAX_BODY - 1))
    assert within_limit(b"x") == b"x"


@pytest.fixture
def alarm_kept() -> Iterator[None]:
    """A worker's time limit takes SIGALRM, which is pytest's own."""
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm_kept")
def test_the_check_of_an_event_type_may_raise_anything() -> None:
    """It is the application's code: the message is invalid, and the worker lives on."""
    bus = Bus("email")
    bus.channel("c").subscribe(Topic("number", Positive))(print)
    handout = Handout(1, 0, b"k" * 16, "id", "number", 1, None, None, {}, b'{"number": -1}')
    outcome = Runner(bus, "c", lambda seconds: None, lambda: Look(0.0, 0.0)).run(handout)
    assert isinstance(outcome, Invalid)
    assert outcome.error.type == "KeyError"


json_documents: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(st.characters(codec="utf-8")), parts),
    max_leaves=20,
)


@given(json_documents)
def test_any_json_document_comes_back_as_it_was(document: Any) -> None:
    assert JSON_CODEC.decode(JSON_CODEC.encode(document)) == document


texts = st.text(st.characters(codec="utf-8"))
addresses = st.builds(Address, texts, st.none() | st.integers(-(2**63), 2**63 - 1))
registrations = st.builds(
    Registered,
    st.integers(-(2**63), 2**63 - 1),
    texts,
    st.sampled_from(Plan),
    st.lists(addresses, max_size=3).map(tuple),
    st.dictionaries(texts, st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3), max_size=3),
)


@given(registrations)
def test_any_record_comes_back_as_it_was(event: Registered) -> None:
    codec = MsgspecCodec(Registered)
    assert codec.decode(codec.encode(event)) == event


@given(st.binary())
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    try:
        JSON_CODEC.decode(body)
    except DecodeError:
        pass
