"""The grammar of names: topics, patterns, services, channels, subscriptions. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import accumulate

from busworker.errors import ConfigurationError

_TOPIC = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_PATTERN = re.compile(r"([a-z0-9_-]+|\*|#)(\.([a-z0-9_-]+|\*|#))*")
_NAME = re.compile(r"[a-z0-9_-]+")
TOPIC_LIMIT, NAME_LIMIT = 100, 40

SPOOL_QUEUE = "busworker.spool"
"""The queue of a spool, which is a store of its own and no bus."""


def checked_topic(name: str) -> str:
    """The name itself.

    Raises:
        ConfigurationError: it is no topic name.
    """
    if len(name) > TOPIC_LIMIT or not _TOPIC.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is no topic name: use up to {TOPIC_LIMIT} of a-z, 0-9, _ and -, words separated by dots, "
            'as in "user.registered"'
        )
    return name


def checked_pattern(pattern: str) -> str:
    """The pattern itself.

    Raises:
        ConfigurationError: it is no pattern.
    """
    if len(pattern) > TOPIC_LIMIT or not _PATTERN.fullmatch(pattern):
        raise ConfigurationError(
            f'{pattern!r} is no pattern: write topic words, "*" (one word) and "#" (any number), as in "user.*"'
        )
    return pattern


def checked_name(name: str, what: str) -> str:
    """The name of a service, channel or instance itself.

    Raises:
        ConfigurationError: it is no such name; `what` is named.
    """
    if len(name) > NAME_LIMIT or not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is no {what} name: use up to {NAME_LIMIT} of a-z, 0-9, _ and -")
    if what == "service" and name == "unrouted":
        raise ConfigurationError('a service can\'t be called "unrouted": commands use that word for unrouted messages')
    return name


def subscription_name(topic: str, service: str, channel: str) -> str:
    """A subscription as people write it: `topic/service.channel`."""
    return f"{topic}/{service}.{channel}"


def subscription_parts(name: str) -> tuple[str, str, str]:
    """The topic, the service and the channel of `topic/service.channel`."""
    topic, _, rest = name.rpartition("/")
    service, _, channel = rest.partition(".")
    return topic, service, channel


@lru_cache(maxsize=4096)
def matches(pattern: str, topic: str) -> bool:
    """Whether a topic fits a pattern, as AMQP's topic exchange decides it (AMQP 0-9-1, section 3.1.3.3)."""
    words = topic.split(".") if topic else []
    # Entry n says whether the pattern so far fits the first n words. Trying every split instead takes time without
    # bounds: "#.a.#.a.#.a" and so on, against a long topic that a foreign publisher chose.
    fits = [True] + [False] * len(words)
    for part in pattern.split("."):
        if part == "#":
            fits = list(accumulate(fits, max))
        else:
            fits = [False, *(before and part in ("*", word) for before, word in zip(fits, words, strict=False))]
    return fits[-1]
