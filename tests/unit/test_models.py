"""Events that are pydantic models: the same demands as for dataclasses, by pydantic's rules."""

import dataclasses
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from busworker import Topic
from busworker.errors import ConfigurationError, DecodeError, EncodeError
from busworker.event_types import codec_for
from busworker.models import LONGEST_TEXT, ModelCodec
from busworker.payload import MAX_BODY

T = TypeVar("T")


class Plan(Enum):
    FREE = "free"
    PAID = "paid"


class Address(BaseModel):
    street: str
    number: int | None = None


class Twin(BaseModel):
    street: str
    number: int | None = None


class Registered(BaseModel):
    model_config = ConfigDict(frozen=True)

    user_id: int
    email: str
    plan: Plan = Plan.FREE
    address: Address | None = None
    addresses: list[Address] = []
    score: float | None = None


class Everything(BaseModel):
    when: datetime
    day: date
    took: timedelta
    price: Decimal
    id: UUID
    raw: bytes
    names: frozenset[str]
    pair: tuple[int, str]
    by_number: dict[int, Address]
    kind: Literal["a", "b"]
    packed: Json[list[int]]


class Page(BaseModel, Generic[T]):
    items: list[T]


class Numbers(RootModel[list[int]]):
    pass


class Aliased(BaseModel):
    user_id: int = Field(alias="userId")
    tag: str = Field(default="", validation_alias="tagIn", serialization_alias="tagIn")


class ByName(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=False)

    user_id: int = Field(alias="userId")


class Chosen(BaseModel):
    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=False)

    user_id: int = Field(alias="userId")


class Tree(BaseModel):
    value: int
    children: list["Tree"] = []


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    lives: int


class Kennel(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]


class Named(BaseModel):
    first: str
    last: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def full(self) -> str:
        return f"{self.first} {self.last}"

    model_config = ConfigDict(extra="forbid")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    known: int


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    number: int
    when: datetime | None = None


class Base64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    raw: bytes


class Cached(BaseModel):
    number: int
    note: str = Field(default="", exclude=True)
    _cache: dict[str, int] = PrivateAttr(default_factory=dict)


class Deferred(BaseModel):
    model_config = ConfigDict(defer_build=True)

    number: int


@pydantic_dataclass
class Checked:
    number: Annotated[int, Field(gt=0)]
    address: Address | None = None


@dataclasses.dataclass(frozen=True)
class Order:
    """Plain, but for one field."""

    number: int
    to: Address


class Moved(TypedDict):
    to: Address


Street = NewType("Street", Address)
ADDRESS = Address(street="Main", number=3)
EVERYTHING = Everything(
    when=datetime(2026, 11, 25, 1, 2, 3, 4, UTC),
    day=date(2026, 11, 25),
    took=timedelta(days=1, microseconds=1),
    price=Decimal("1.10"),
    id=UUID(int=7),
    raw=b"abc",
    names=frozenset({"x", "y", "z"}),
    pair=(1, "x"),
    by_number={1: ADDRESS},
    kind="b",
    packed="[1, 2]",
)

FITTING: list[tuple[Any, Any]] = [
    (Registered, Registered(user_id=1, email="é@example.org", plan=Plan.PAID, address=ADDRESS, addresses=[ADDRESS])),
    (Registered, Registered(user_id=2**70, email="null", score=1.5)),
    (Everything, EVERYTHING),
    (list[Address], [ADDRESS, Address(street="Side")]),
    (Address | None, None),
    (Address | None, ADDRESS),
    (dict[str, list[Address]], {"a": [ADDRESS]}),
    (Cat | Dog, Dog(lives=1)),
    (Page[Address], Page[Address](items=[ADDRESS])),
    (Numbers, Numbers([1, 2])),
    (Aliased, Aliased(userId=1, tagIn="x")),
    (ByName, ByName(user_id=1)),
    (Chosen, Chosen(user_id=1)),
    (Tree, Tree(value=1, children=[Tree(value=2)])),
    (Kennel, Kennel(pets=[Cat(lives=9), Dog(lives=1)])),
    (Named, Named(first="Ada", last="Lovelace")),
    (Open, Open(known=1, more=[1.5, None])),  # type: ignore[call-arg]
    (Strict, Strict(number=1, when=datetime(2026, 11, 25, tzinfo=UTC))),
    (Base64, Base64(raw=b"\x00\xff")),
    (Deferred, Deferred(number=1)),
    (Checked, Checked(1, ADDRESS)),
    (Order, Order(1, ADDRESS)),
    (Moved, {"to": ADDRESS}),
    (Street, ADDRESS),
    (tuple[int, Address], (1, ADDRESS)),
    (Annotated[int, Field(gt=0)], 1),
]


@pytest.mark.parametrize(("kind", "event"), FITTING, ids=[str(kind) for kind, _ in FITTING])
def test_an_event_comes_back_as_it_was(kind: Any, event: Any) -> None:
    codec = codec_for(kind)
    assert isinstance(codec, ModelCodec)
    body = codec.encode(event)
    assert codec.decode(body) == event
    json.loads(body, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("event", "document"),
    [
        (Aliased(userId=1), {"userId": 1, "tagIn": ""}),
        (ByName(user_id=1), {"user_id": 1}),
        (Chosen(user_id=1), {"user_id": 1}),
        (Named(first="a", last="b"), {"first": "a", "last": "b"}),
        (Cached(number=1, note="mine"), {"number": 1}),
        (Numbers([1]), [1]),
        (Open(known=1, more=2), {"known": 1, "more": 2}),  # type: ignore[call-arg]
    ],
    ids=repr,
)
def test_the_body_is_what_can_be_read_again(event: BaseModel, document: object) -> None:
    assert json.loads(codec_for(type(event)).encode(event)) == document


def changed(event: BaseModel, **values: Any) -> Any:
    """The model with values that nobody has checked."""
    return event.model_copy(update=values)


def unchecked(event: Checked, **values: Any) -> Checked:
    """The same for a dataclass."""
    vars(event).update(values)
    return event


class Renamed(BaseModel):
    """Can be written, and can't be read."""

    user_id: int = Field(serialization_alias="userId")


class Choosy(BaseModel):
    user_id: int = Field(validation_alias=AliasChoices("a", "b"))


class Adult(BaseModel):
    age: int
    limit: int = 18

    @field_validator("age")
    @classmethod
    def grown(cls, age: int) -> int:
        if age < 18:
            raise ValueError(f"{age} is\nno age")
        return age

    @model_validator(mode="after")
    def within(self) -> "Adult":
        assert self.age < 150, "too old"
        return self


class Lowered(BaseModel):
    email: Annotated[str, AfterValidator(str.lower)]


class Cut(BaseModel):
    words: Annotated[list[str], AfterValidator(lambda words: words[:1])]


class Hidden(BaseModel):
    password: SecretStr


class HalfBase64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64")

    raw: bytes


class Constants(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")

    number: float


class Either(BaseModel):
    place: Address | Twin
    others: dict[str, list[Address]] = {}


class Wrong(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    bare: object = None
    iterator: Iterator[int] | None = None


REGISTERED = Registered(user_id=1, email="x")
WRONG: list[tuple[Any, Any]] = [
    (Registered, changed(REGISTERED, user_id="7")),
    (Registered, changed(REGISTERED, user_id=None)),
    (Registered, changed(REGISTERED, email="\ud800")),
    (Registered, changed(REGISTERED, plan="free")),
    (Registered, changed(REGISTERED, score=math.nan)),
    (Registered, changed(REGISTERED, score=math.inf)),
    (Registered, changed(REGISTERED, address={"street": "x"})),
    (Registered, changed(REGISTERED, address=Twin(street="x"))),
    (Registered, changed(REGISTERED, addresses=[ADDRESS, Twin(street="x")])),
    (Registered, Registered.model_construct(user_id=1)),
    (Registered, {"user_id": 1, "email": "x"}),
    (Registered, '{"user_id": 1, "email": "x"}'),
    (Registered, None),
    (Registered, Registered),
    (Address, Twin(street="x")),
    (list[Address], [Twin(street="x")]),
    (list[Address], ADDRESS),
    (list[Address], {"0": ADDRESS}),
    (dict[str, Address], {"a": Twin(street="x")}),
    (dict[str, Address], {1: ADDRESS}),
    (Address | None, Twin(street="x")),
    (Cat | Dog, ADDRESS),
    (Page[Address], Page[Twin](items=[])),
    (Page[Address], Page(items=[ADDRESS])),
    (Numbers, Numbers.model_construct([1, "2"])),
    (Numbers, [1]),
    (Either, Either(place=Twin(street="x"))),  # arrives as an Address
    (Either, Either.model_construct(place=ADDRESS, others={"a": [Twin(street="x")]})),
    (Address | Twin, Twin(street="x")),
    (Renamed, Renamed(user_id=1)),
    (Choosy, Choosy.model_construct(user_id=1)),
    (Adult, changed(Adult(age=20), age=17)),
    (Adult, changed(Adult(age=20), age=200)),
    (Lowered, Lowered.model_construct(email="Ada@Example.org")),
    (Hidden, Hidden(password=SecretStr("x"))),
    (HalfBase64, HalfBase64(raw=b"\x00\xff")),
    (Address, changed(ADDRESS, street=b"\xff")),
    (Base64, Base64.model_construct(raw=1)),
    (Constants, Constants(number=math.nan)),
    (Strict, changed(Strict(number=1), number=1.5)),
    (Checked, unchecked(Checked(1), number=0)),
    (Checked, unchecked(Checked(1), address=Twin(street="x"))),
    (Order, Order("7", ADDRESS)),  # type: ignore[arg-type]
    (Order, Order(7, Twin(street="x"))),  # type: ignore[arg-type]
    (Moved, {"to": Twin(street="x")}),
    (Moved, {}),
    (Cut, Cut.model_construct(words=["a", "b"])),
    (Wrong, Wrong(bare=object())),
    (Annotated[int, Field(gt=0)], 0),
]


@pytest.mark.parametrize(("kind", "event"), WRONG)
def test_an_event_that_does_not_fit_is_refused_when_published(kind: Any, event: Any) -> None:
    codec = codec_for(kind)
    assert isinstance(codec, ModelCodec)
    with pytest.raises(EncodeError) as refused:
        codec.encode(event)
    assert_plain(str(refused.value))


def assert_plain(text: str) -> None:
    """One line, not too long, and without pydantic's advertising."""
    assert "\n" not in text
    assert "errors.pydantic.dev" not in text
    assert len(text) < LONGEST_TEXT + 100


def test_a_model_that_no_longer_fits_is_refused() -> None:
    address = Address(street="Main")
    codec = codec_for(Address)
    codec.encode(address)
    address.number = "three"  # type: ignore[assignment]
    with pytest.raises(EncodeError, match=r"fit its topic: .*three"):
        codec.encode(address)


@pytest.mark.parametrize(
    ("kind", "event", "text"),
    [
        (Registered, changed(REGISTERED, address=Twin(street="x")), "address: Twin would arrive as Address"),
        (Registered, changed(REGISTERED, score=math.nan), "score: a handler would get another value"),
        (Hidden, Hidden(password=SecretStr("x")), "password: a handler would get another value"),
        (Address, Twin(street="x"), "this topic takes Address, not Twin"),
        (Page[Address], Page[Twin](items=[]), "this topic takes Page[Address], not Page[Twin]"),
        (Adult, changed(Adult(age=20), age=17), "the event doesn't fit its topic: age: Value error, 17 is no age"),
        (Renamed, Renamed(user_id=1), "user_id: Field required"),
    ],
)
def test_an_error_names_the_place_and_the_way_out(kind: Any, event: Any, text: str) -> None:
    with pytest.raises(EncodeError) as refused:
        codec_for(kind).encode(event)
    assert text in str(refused.value)


def test_the_subclass_of_a_model_goes_out_as_the_topic_says() -> None:
    """As type checkers allow it; a subclass may hold what isn't meant for this topic."""

    class Secret(Address):
        code: str

    codec = codec_for(Address)
    assert codec.decode(codec.encode(Secret(street="x", code="y"))) == Address(street="x")


def test_what_any_holds_may_arrive_as_json_has_it() -> None:
    class Loose(BaseModel):
        data: dict[str, Any]

    codec = codec_for(Loose)
    body = codec.encode(Loose(data={"when": date(2026, 11, 25), "pair": (1, 2), "at": ADDRESS}))
    assert codec.decode(body).data == {"when": "2026-11-25", "pair": [1, 2], "at": {"street": "Main", "number": 3}}


def test_private_attributes_and_excluded_fields_stay_at_home() -> None:
    event = Cached(number=1, note="mine")
    event._cache["x"] = 1
    codec = codec_for(Cached)
    assert codec.decode(codec.encode(event)) == Cached(number=1)


def test_a_value_that_cannot_be_compared_is_not_refused_for_that() -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    class Drawn(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        at: Annotated[Point, pydantic.PlainValidator(Point), pydantic.PlainSerializer(lambda point: point.x)]

    codec = codec_for(Drawn)
    assert codec.decode(codec.encode(Drawn(at=7))).at.x == 7  # type: ignore[arg-type]


def test_by_default_pydantic_converts_and_a_strict_model_does_not() -> None:
    body = b'{"user_id": "7", "email": "x"}'
    assert codec_for(Registered).decode(body) == Registered(user_id=7, email="x")
    with pytest.raises(DecodeError, match="number: Input should be a valid integer"):
        codec_for(Strict).decode(b'{"number": "7"}')


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        (Registered, b"", "no JSON"),
        (Registered, b"{", "no JSON"),
        (Registered, b'{"user_id": 1, "email": "\xff"}', "no JSON"),
        (Registered, b'{"user_id": 1, "email": "\\ud800"}', "no JSON"),
        (Registered, b'{"user_id": 1, "email": "x", "score": NaN}', "no JSON"),
        (Registered, b'{"user_id": 1, "email": "x", "score": -Infinity}', "no JSON"),
        (Registered, b'{"user_id": 1, "email": "x"} 1', "no JSON"),
        (Tree, b'{"value": 1, "children": [' * 50_000, "no JSON"),
        (list[Address], b"[" * 150 + b"]" * 150, "Input should be"),
        (list[Any] | Address, b"[" * 500 + b"]" * 500, "no JSON"),
        (Registered, b"null", "Input should be"),
        (Registered, b"[]", "Input should be"),
        (Registered, b'{"email": "x"}', "user_id: Field required"),
        (Registered, b'{"user_id": 1, "email": "x", "plan": "other"}', "plan: "),
        (Registered, b'{"user_id": 1, "email": "x", "address": {}}', "address.street: Field required"),
        (Registered, b'{"user_id": "a", "address": 1}', "(and 2 more)"),
        (Aliased, b'{"user_id": 1}', "userId: Field required"),
        (Named, b'{"first": "a", "last": "b", "full": "c"}', "full: Extra inputs are not permitted"),
        (Adult, b'{"age": 3}', "age: Value error, 3 is no age"),
        (Adult, b'{"age": 300}', "the body doesn't fit its topic: Assertion failed, too old"),
        (Kennel, b'{"pets": [{"kind": "cow"}]}', "pets.0: "),
        (Checked, b'{"number": 0}', "number: "),
        (Order, b'{"number": 1}', "to: Field required"),
        (dict[str, Address], b'{"' + b"k" * 100_000 + b'": 1}', "…"),
        (list[Address], b"[" + b"1," * 100_000 + b"1]", "100,001 parts of it don't"),
    ],
)
def test_a_body_that_does_not_fit_is_refused_when_consumed(kind: Any, body: bytes, text: str) -> None:
    with pytest.raises(DecodeError) as refused:
        codec_for(kind).decode(body)
    assert text in str(refused.value)
    assert_plain(str(refused.value))


def test_a_foreign_body_may_hold_more_than_the_model_knows() -> None:
    assert codec_for(Address).decode(b'{"street": "x", "new": [1]}') == Address(street="x")


def test_a_body_over_16_mib_is_refused() -> None:
    codec = codec_for(Address)
    room = MAX_BODY - len(codec.encode(Address(street="")))
    assert len(codec.encode(Address(street="x" * room))) == MAX_BODY
    with pytest.raises(EncodeError, match="over the limit of 16,777,216"):
        codec.encode(Address(street="x" * (room + 1)))


class Bare:
    pass


class Struct(msgspec.Struct):
    to: Address


@dataclasses.dataclass
class Holder:
    to: Address
    bare: Bare


class Lost(BaseModel):
    where: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize("kind", [Struct, Holder, Lost, dict[str, Lost], tuple[Address, Bare]])
def test_a_type_that_pydantic_cannot_handle_is_refused_at_once(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match="can't be JSON") as refused:
        Topic("a", kind)
    assert_plain(str(refused.value))


def test_models_of_pydantic_1_are_refused_with_the_way_out() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the old package, which says itself that it is old
        from pydantic import v1

    class Old(v1.BaseModel):
        number: int

    @v1.dataclasses.dataclass
    class OldRecord:
        number: int

    for kind in (Old, list[Old], OldRecord):
        with pytest.raises(ConfigurationError, match="is a model of pydantic 1, derive it from"):
            Topic("a", kind)


@pytest.mark.parametrize("kind", [int, dict[str, object], Plan])
def test_other_types_stay_with_msgspec(kind: Any) -> None:
    assert not isinstance(codec_for(kind), ModelCodec)


def test_a_type_of_pydantic_in_a_dataclass_is_read_by_pydantic() -> None:
    @dataclasses.dataclass
    class Login:
        name: Annotated[str, Field(min_length=1)]

    assert isinstance(codec_for(Login), ModelCodec)
    with pytest.raises(EncodeError, match="name: String should have at least 1 character"):
        codec_for(Login).encode(Login(""))


def test_pydantic_is_not_imported_for_others() -> None:
    program = (
        "import sys; from dataclasses import dataclass; from busworker import *\n"
        "@dataclass\nclass A:\n    x: int\n"
        "Bus('a').channel('c').subscribe(Topic('t', A))(print)\n"
        "assert 'pydantic' not in sys.modules and 'busworker.models' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


addresses = st.builds(Address, street=st.text(st.characters(codec="utf-8")), number=st.none() | st.integers())


@given(
    st.builds(
        Registered,
        user_id=st.integers(),
        email=st.text(st.characters(codec="utf-8")),
        plan=st.sampled_from(Plan),
        address=st.none() | addresses,
        addresses=st.lists(addresses, max_size=3),
        score=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_any_model_comes_back_as_it_was(event: Registered) -> None:
    codec = codec_for(Registered)
    assert codec.decode(codec.encode(event)) == event


@given(st.binary() | st.text().map(str.encode) | st.sampled_from([b"1" * 5000, b'{"user_id": 1e400}']))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    try:
        codec_for(Registered).decode(body)
    except DecodeError:
        pass
