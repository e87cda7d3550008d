"""The grammar of names, and which topics a pattern matches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busworker.errors import ConfigurationError
from busworker.names import checked_name, checked_pattern, checked_topic, matches


@pytest.mark.parametrize("name", ["a", "user.registered", "0-_.x", "a.b.c.d", "x" * 100])
def test_a_topic_name_is_itself(name: str) -> None:
    assert checked_topic(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "User", "a b", "a/b", "a.*", "#", "é", "a\n", "x" * 101, "٣"]
)
def test_what_is_no_topic_name_is_refused_and_shown(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        checked_topic(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("pattern", ["*", "#", "user.*", "#.created", "user.*.#", "user.registered"])
def test_a_pattern_is_itself(pattern: str) -> None:
    assert checked_pattern(pattern) == pattern


@pytest.mark.parametrize("pattern", ["", "user.", "user*", "user.**", "#a", "User.*", "a\n", "*." * 51 + "*"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="is no pattern"):
        checked_pattern(pattern)


@pytest.mark.parametrize("name", ["a", "e-mail_2", "x" * 40])
def test_a_name_is_itself(name: str) -> None:
    assert checked_name(name, "service") == name


@pytest.mark.parametrize("name", ["", "a.b", "Email", "a b", "a/b", "x" * 41, "a\n"])
@pytest.mark.parametrize("what", ["service", "channel", "instance"])
def test_a_bad_name_is_refused_with_what_it_should_name(name: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=f"is no {what} name"):
        checked_name(name, what)


def test_only_a_service_cannot_be_called_unrouted() -> None:
    with pytest.raises(ConfigurationError, match="unrouted"):
        checked_name("unrouted", "service")
    assert checked_name("unrouted", "channel") == "unrouted"


@pytest.mark.parametrize(
    ("pattern", "topic", "fits"),
    [
        ("user.registered", "user.registered", True),
        ("user.registered", "user", False),
        ("user.*", "user.registered", True),
        ("user.*", "user", False),
        ("user.*", "user.a.b", False),
        ("*.*", "a.b", True),
        ("user.#", "user", True),
        ("user.#", "user.a.b", True),
        ("user.#", "users", False),
        ("#", "a.b.c", True),
        ("#", "", True),
        ("*", "", False),
        ("#.b.#", "b", True),
        ("#.b.#", "a.b.c", True),
        ("#.b.#", "a.c", False),
        ("#.*", "a", True),
        ("*.#.*", "a", False),
        ("*.#.*", "a.b", True),
    ],
)
def test_a_pattern_matches_as_amqp_says(pattern: str, topic: str, fits: bool) -> None:
    assert matches(pattern, topic) is fits


def oracle(pattern: list[str], topic: list[str]) -> bool:
    """The definition: `#` is any number of words, so it is tried with each."""
    if not pattern:
        return not topic
    if pattern[0] == "#":
        return any(oracle(pattern[1:], topic[taken:]) for taken in range(len(topic) + 1))
    return bool(topic) and pattern[0] in ("*", topic[0]) and oracle(pattern[1:], topic[1:])


words = st.sampled_from(["a", "b"])


@given(st.lists(words | st.sampled_from(["*", "#"]), min_size=1, max_size=6), st.lists(words, min_size=1, max_size=6))
def test_matching_is_trying_every_split(pattern: list[str], topic: list[str]) -> None:
    assert matches(".".join(pattern), ".".join(topic)) is oracle(pattern, topic)


def test_a_hostile_topic_costs_no_more_than_its_length() -> None:
    assert not matches(".".join(["#", "a"] * 24), ".".join(["a"] * 120 + ["b"]))
