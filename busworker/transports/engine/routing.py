"""Where a message goes: exchanges and bindings, as AMQP 0-9-1 section 3.1.3 has them. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def key_matches(pattern: str, routing_key: str) -> bool:
    """Whether a topic binding takes a routing key: `*` is one word, `#` any number of words, none included."""
    words = pattern.split(".") if pattern else []
    states = _skip_hashes({0}, words)
    for word in routing_key.split(".") if routing_key else []:
        states = _skip_hashes(_step(states, words, word), words)
    return len(words) in states


def _step(states: set[int], words: Sequence[str], word: str) -> set[int]:
    # A state is the number of pattern words used up; a `#` that takes a word stays where it is.
    reached: set[int] = set()
    for state in states:
        expected = words[state] if state < len(words) else None
        if expected == "#":
            reached.add(state)
        elif expected in ("*", word):
            reached.add(state + 1)
    return reached


def _skip_hashes(states: set[int], words: Sequence[str]) -> set[int]:
    closed = set(states)
    for state in sorted(states):
        following = state
        while following < len(words) and words[following] == "#":
            following += 1
            closed.add(following)
    return closed


def takes(exchange_type: str, binding_key: str, routing_key: str) -> bool:
    """Whether a binding of an exchange takes a message.

    Raises:
        ValueError: the exchange type doesn't exist.
    """
    match exchange_type:
        case "fanout":
            return True
        case "direct":
            return binding_key == routing_key
        case "topic":
            return key_matches(binding_key, routing_key)
        case _:
            raise ValueError(exchange_type)


TYPES = ("direct", "fanout", "topic")
