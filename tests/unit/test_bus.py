"""What an application declares and publishes: which declarations are refused, and what a message looks like."""

import functools
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busworker import Bus, Pattern, Topic, publisher
from busworker.bus import importing
from busworker.channel import Subscription
from busworker.declaration import ChannelSpec, ServiceSpec, SubscriptionSpec
from busworker.errors import ApplicationError, ConfigurationError, EncodeError
from busworker.headers import HEADERS_LIMIT
from busworker.message import OWN_PREFIX, READY_AT, Message, Outgoing
from busworker.payload import JSON_CODEC, Json
from busworker.receipt import Receipt
from busworker.retry import RetryPolicy


@dataclass(frozen=True)
class Registered:
    user_id: int


registered = Topic("user.registered", Registered)
EVENT = Registered(42)


def handle(event: object) -> None: ...


@dataclass
class Outbox:
    """A publish port that keeps what it is given."""

    sent: list[Outgoing] = field(default_factory=list)
    immediate: list[bool] = field(default_factory=list)
    calls: list[tuple[str, float | None]] = field(default_factory=list)

    def publish(self, outgoing: Outgoing, *, immediately: bool) -> Receipt:
        self.sent.append(outgoing)
        self.immediate.append(immediately)
        return Receipt(outgoing.id)

    def flush(self, timeout: float | None) -> None:
        self.calls.append(("flush", timeout))

    def close(self) -> None:
        self.calls.append(("close", None))


@pytest.fixture
def bus() -> Bus:
    return Bus("email")


@pytest.fixture
def outbox(bus: Bus) -> Outbox:
    """Where the messages of `bus` go."""
    outbox = Outbox()
    bus.use_port(outbox)
    return outbox


def only(bus: Bus) -> Subscription:
    (subscription,) = bus.channels["c"].subscriptions
    return subscription


# Topics, patterns, services


def test_a_topic_has_a_name_and_a_type() -> None:
    assert (registered.name, registered.event_type) == ("user.registered", Registered)
    assert repr(registered) == "Topic('user.registered', Registered)"


@pytest.mark.parametrize("declare", [lambda: Topic("User", int), lambda: Pattern("user."), lambda: Bus("a.b")])
def test_a_bad_name_is_refused_at_once(declare: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match="is no"):
        declare()


def test_a_topic_whose_type_is_no_json_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="can't be JSON"):
        Topic("x", complex)


def test_a_service_has_the_defaults_of_the_design(bus: Bus) -> None:
    assert (bus.name, bus.broker, bus.imports, bus.publish_deadline) == ("email", None, (), 10.0)


def test_imports_may_be_one_name() -> None:
    assert Bus("email", imports="email_handlers").imports == ("email_handlers",)
    assert Bus("email", imports=["a", "b"]).imports == ("a", "b")


@pytest.mark.parametrize("deadline", [0, -1, "soon", float("inf")])
def test_a_publish_deadline_is_a_positive_duration(deadline: float | str) -> None:
    with pytest.raises(ConfigurationError, match="publish_deadline"):
        Bus("email", publish_deadline=deadline)


# Channels


def test_a_channel_has_the_defaults_of_the_design(bus: Bus) -> None:
    channel = bus.channel("welcome")
    assert channel.name == "welcome"
    assert channel.spec == ChannelSpec("welcome", 1, 1, None, None, ())


def test_a_size_may_be_a_text(bus: Bus) -> None:
    assert bus.channel("c", memory_limit="512MB").spec.memory_limit == 512_000_000


def test_two_channels_of_one_name_are_refused(bus: Bus) -> None:
    bus.channel("c")
    with pytest.raises(ConfigurationError, match="two channels 'c'"):
        bus.channel("c")


@pytest.mark.parametrize(
    "wrong",
    [
        {"processes": 0},
        {"processes": 1001},
        {"processes": 2.5},
        {"processes": "2"},
        {"concurrency": 0},
        {"concurrency": 1001},
        {"memory_limit": 0},
        {"memory_limit": "much"},
        {"max_messages": 0},
        {"max_messages": 1.5},
    ],
    ids=str,
)
def test_a_channels_value_out_of_range_is_refused_by_name(bus: Bus, wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=name):
        bus.channel("c", **wrong)
    assert not bus.channels


@pytest.mark.parametrize("name", ["", "A", "a.b", "x" * 41])
def test_a_bad_channel_name_is_refused(bus: Bus, name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no channel name"):
        bus.channel(name)


# Subscriptions


def test_a_subscription_has_the_defaults_of_the_design(bus: Bus) -> None:
    bus.channel("c").subscribe(registered)(handle)
    delays = (1, 5, 30, 120, 600, 1800, 3600)
    assert only(bus).spec == SubscriptionSpec("user.registered", False, 8, delays, 600.0, 5.0)
    assert only(bus).codec is registered.codec


def test_what_is_declared_is_plain_data(bus: Bus) -> None:
    channel = bus.channel("c", processes=3)
    policy = RetryPolicy(max_attempts=2, delays=(4,), dead_on=(KeyError,))
    channel.subscribe(registered, retry=policy, time_limit=None, kill_after="1m")(handle)
    spec = SubscriptionSpec("user.registered", False, 2, (4,), None, 60.0)
    assert bus.spec == ServiceSpec("email", (ChannelSpec("c", 3, 1, None, None, (spec,)),))
    assert only(bus).dead_on == (KeyError,)


def test_the_decorator_returns_the_function_itself(bus: Bus) -> None:
    channel = bus.channel("c")
    assert channel.subscribe(registered)(handle) is handle
    assert channel.subscribe(Pattern("user.*"))(handle) is handle
    assert bus.on_worker_start(nothing) is nothing
    assert bus.on_worker_stop(nothing) is nothing


def test_a_pattern_gets_any_json(bus: Bus) -> None:
    @bus.channel("c").subscribe(Pattern("user.#"))
    def log(event: Json) -> None: ...

    assert only(bus).spec.topic == "user.#"
    assert only(bus).spec.pattern
    assert only(bus).codec is JSON_CODEC


@pytest.mark.parametrize("wrong", [{"time_limit": 0}, {"time_limit": "x"}, {"kill_after": -1}], ids=str)
def test_a_subscriptions_value_out_of_range_is_refused_by_name(bus: Bus, wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=name):
        bus.channel("c").subscribe(registered, **wrong)


def test_subscribing_twice_in_one_channel_is_refused(bus: Bus) -> None:
    channel = bus.channel("c")
    early = channel.subscribe(registered)
    channel.subscribe(registered)(handle)
    with pytest.raises(ConfigurationError, match=r"email\.c subscribes twice to 'user\.registered'"):
        channel.subscribe(Topic("user.registered", int))
    with pytest.raises(ConfigurationError, match="twice"):
        early(handle)
    bus.channel("d").subscribe(registered)(handle)


def test_a_pattern_beside_a_topic_it_matches_is_fine(bus: Bus) -> None:
    channel = bus.channel("c")
    channel.subscribe(registered)(handle)
    channel.subscribe(Pattern("user.*"))(handle)
    assert len(channel.subscriptions) == 2


def test_concurrency_needs_an_async_handler(bus: Bus) -> None:
    with pytest.raises(ConfigurationError, match=r"email\.c.*async def"):
        bus.channel("c", concurrency=2).subscribe(registered)(handle)


def test_an_async_handler_is_known_as_such(bus: Bus) -> None:
    @bus.channel("c").subscribe(registered)
    async def send(event: Registered) -> None: ...

    assert only(bus).is_async
    assert not only(bus).wants_message


# Handlers


class Called:
    def __call__(self, event: object, message: Message) -> None: ...

    def method(self, event: object) -> None: ...

    @classmethod
    def of_class(cls, event: object, message: Message) -> None: ...


def with_message(event: object, message: Message) -> None: ...
def with_default(event: object, log: Callable[[str], None] = print) -> None: ...
def with_rest(event: object, *more: object, **named: object) -> None: ...
def with_keyword(event: object, *, dry: bool = False) -> None: ...
def with_own_third(event: object, message: Message, dry: bool = False) -> None: ...
def only_rest(*arguments: object) -> None: ...


@pytest.mark.parametrize(
    ("handler", "wants"),
    [
        (handle, False),
        (with_message, True),
        (with_default, False),
        (with_rest, False),
        (with_keyword, False),
        (with_own_third, True),
        (only_rest, False),
        (lambda event: None, False),
        (lambda event, message: None, True),
        (Called(), True),
        (Called().method, False),
        (Called.of_class, True),
        (functools.partial(with_default, log=print), False),
        (functools.partial(with_own_third, dry=True), True),
        (print, False),
        (int, False),
    ],
)
def test_a_handler_gets_the_message_if_it_has_a_place_for_it(bus: Bus, handler: Any, wants: bool) -> None:
    bus.channel("c").subscribe(registered)(handler)
    assert only(bus).wants_message is wants


def nothing() -> None: ...
def three(event: object, message: Message, third: object) -> None: ...
def keyword(event: object, *, needed: int) -> None: ...
def generator(event: object) -> Iterator[None]:
    yield


async def async_generator(event: object) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("wrong", [nothing, three, keyword, generator, async_generator])
def test_what_cannot_be_called_as_a_handler_is_refused(bus: Bus, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{__name__}\.{wrong.__name__} can't be a handler"):
        bus.channel("c").subscribe(registered)(wrong)
    assert not bus.channels["c"].subscriptions


# Hooks


def test_hooks_are_kept_in_their_order(bus: Bus) -> None:
    @bus.around_attempt
    def first(message: Message) -> Iterator[None]:
        yield

    @bus.around_attempt
    async def second(message: Message) -> AsyncIterator[None]:
        yield

    bus.on_worker_start(nothing)
    bus.on_worker_stop(nothing)
    assert bus.around_hooks == [first, second]
    assert (bus.worker_start_hooks, bus.worker_stop_hooks) == ([nothing], [nothing])


def test_around_attempt_takes_generators_only(bus: Bus) -> None:
    wrong: Any = handle
    with pytest.raises(ConfigurationError, match=rf"{__name__}\.handle is none: it must yield once"):
        bus.around_attempt(wrong)


# Publishing


def test_a_message_is_as_the_wire_format_says(bus: Bus, outbox: Outbox) -> None:
    receipt = bus.publish(registered, EVENT, id="m1", headers={"mine": 1}, delay="1m", correlation_id="c1")
    (sent,) = outbox.sent
    assert receipt.id == sent.id == "m1"
    assert (sent.exchange, sent.routing_key, sent.body) == ("busworker", "user.registered", b'{"user_id":42}')
    timestamp, ready_at = sent.properties.pop("timestamp"), sent.headers.pop(READY_AT)
    assert (sent.headers, sent.delay) == ({"mine": 1}, 60.0)
    assert isinstance(timestamp, int)
    assert isinstance(ready_at, int)
    assert (ready_at - 60_000) // 1000 == timestamp
    assert sent.properties == {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "delivery_mode": 2,
        "type": "user.registered",
        "app_id": "email",
        "message_id": "m1",
        "correlation_id": "c1",
    }


def test_what_is_not_given_is_not_sent(bus: Bus, outbox: Outbox) -> None:
    bus.publish(registered, EVENT)
    (sent,) = outbox.sent
    assert not {"message_id", "correlation_id"} & sent.properties.keys()
    assert (sent.headers, sent.delay, outbox.immediate) == ({}, None, [False])


def test_immediately_is_told_to_the_port(bus: Bus, outbox: Outbox) -> None:
    bus.publish(registered, EVENT, immediately=True)
    assert outbox.immediate == [True]


def test_an_event_that_does_not_fit_is_not_published(bus: Bus, outbox: Outbox) -> None:
    wrong: Any = {"user_id": 42}
    with pytest.raises(EncodeError, match="takes Registered, not dict"):
        bus.publish(registered, wrong)
    assert not outbox.sent


@pytest.mark.parametrize("topic", ["user.registered", None, Registered, Pattern("user.*")])
def test_only_a_topic_is_published_to(bus: Bus, outbox: Outbox, topic: Any) -> None:
    with pytest.raises(TypeError, match=r"^publish takes a Topic, not .*: give Topic\("):
        bus.publish(topic, EVENT)
    assert not outbox.sent


def test_only_a_topic_or_a_pattern_is_subscribed_to(bus: Bus) -> None:
    wrong: Any = "user.registered"
    with pytest.raises(TypeError, match=r"^subscribe takes a Topic or a Pattern, not 'user.registered'$"):
        bus.channel("c").subscribe(wrong)


@pytest.mark.parametrize("delay", [-1, "later", float("nan"), timedelta(1), [3], 2**28])
def test_a_bad_delay_is_refused(bus: Bus, outbox: Outbox, delay: Any) -> None:
    with pytest.raises(ConfigurationError, match="delay"):
        bus.publish(registered, EVENT, delay=delay)
    assert not outbox.sent


@pytest.mark.parametrize("value", [5, b"m1", uuid.UUID(int=1), ["m1"]])
@pytest.mark.parametrize("where", ["id", "correlation_id"])
def test_an_id_that_is_no_text_is_refused(bus: Bus, outbox: Outbox, where: str, value: object) -> None:
    ids: dict[str, Any] = {where: value}
    with pytest.raises(EncodeError, match=f"is no text but of type {type(value).__name__}: give str$"):
        bus.publish(registered, EVENT, **ids)
    assert not outbox.sent


@pytest.mark.parametrize("text", ["", "x" * 256, "é" * 128, "\ud800"])
@pytest.mark.parametrize("where", ["id", "correlation_id"])
def test_an_id_that_amqp_cannot_carry_is_refused(bus: Bus, outbox: Outbox, where: str, text: str) -> None:
    ids: dict[str, Any] = {where: text}
    with pytest.raises(EncodeError, match=f"{'message_id' if where == 'id' else where}="):
        bus.publish(registered, EVENT, **ids)
    assert not outbox.sent


@pytest.mark.parametrize(
    "headers",
    [
        {"x-busworker-attempt": 2},
        {"x-busworker-anything": 1},
        {"": 1},
        {"x" * 256: 1},
        {"\ud800": 1},
        {"a": "\ud800"},
        {"a": 2**63},
        {"a": object()},
        {1: 2},
        {None: 2},
        "a=1",
        [("a", 1)],
        7,
        {"a": {1: 2}},
        {"a": [{"b": {3}}]},
        {"a": "x" * HEADERS_LIMIT},
    ],
)
def test_headers_that_cannot_be_sent_are_refused(bus: Bus, outbox: Outbox, headers: Any) -> None:
    with pytest.raises(EncodeError):
        bus.publish(registered, EVENT, headers=headers)
    assert not outbox.sent


def test_headers_within_themselves_are_refused(bus: Bus, outbox: Outbox) -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(EncodeError):
        bus.publish(registered, EVENT, headers=endless)


headers = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda name: not name.startswith(OWN_PREFIX)),
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8")) | st.binary(),
)


@given(headers)
def test_headers_arrive_as_they_are_and_apart_from_the_callers(given_headers: dict[str, Any]) -> None:
    bus, outbox = Bus("email"), Outbox()
    bus.use_port(outbox)
    before = dict(given_headers)
    bus.publish(registered, EVENT, headers=given_headers)
    given_headers["later"] = 1
    sent = outbox.sent[0].headers
    assert sent == before


def test_publishing_while_importing_is_an_error(bus: Bus, outbox: Outbox) -> None:
    with importing(), pytest.raises(ApplicationError, match="email publishes while its application is imported"):
        bus.publish(registered, EVENT)
    with importing():
        with importing():
            pass
        with pytest.raises(ApplicationError):
            bus.publish(registered, EVENT)
    assert not outbox.sent
    bus.publish(registered, EVENT)
    assert len(outbox.sent) == 1


def test_an_import_that_fails_ends_the_refusal(bus: Bus, outbox: Outbox) -> None:
    with pytest.raises(KeyError), importing():
        raise KeyError
    bus.publish(registered, EVENT)
    assert outbox.sent


def test_flush_and_close_reach_the_port_once(bus: Bus, outbox: Outbox) -> None:
    bus.flush(3)
    bus.close()
    bus.close()
    bus.flush()
    assert outbox.calls == [("flush", 3), ("close", None)]


def test_threads_that_publish_first_share_one_publisher(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Outbox] = []
    everybody = threading.Barrier(8)

    def open_port(bus: Bus) -> Outbox:
        opened.append(Outbox())
        return opened[-1]

    monkeypatch.setattr(publisher, "open_port", open_port)
    bus = Bus("signup")

    def publish() -> None:
        everybody.wait(10)
        bus.publish(Topic("t", int), 1)

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [len(outbox.sent) for outbox in opened] == [8]
