"""`Topic` and `Pattern`: what services share. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from busworker.event_types import codec_for
from busworker.names import checked_pattern, checked_topic
from busworker.payload import Codec

T = TypeVar("T")


class Topic(Generic[T]):
    """A named stream of events of one type, shared by services.

    Args:
        name: words of `a-z 0-9 _ -` separated by dots, up to 100 characters.
        event_type: a dataclass, `msgspec.Struct`, pydantic model, TypedDict or builtin type that is a JSON document.

    Raises:
        ConfigurationError: the name or the type can't be used.
    """

    def __init__(self, name: str, event_type: type[T]) -> None:
        self.name = checked_topic(name)
        self.event_type = event_type
        self.codec: Codec[T] = codec_for(event_type)

    def __repr__(self) -> str:
        return f"Topic({self.name!r}, {getattr(self.event_type, '__name__', self.event_type)})"


@dataclass(frozen=True, slots=True)
class Pattern:
    """Many topics at once: `*` stands for one word, `#` for any number of words.

    Raises:
        ConfigurationError: the text is no pattern.
    """

    pattern: str

    def __post_init__(self) -> None:
        checked_pattern(self.pattern)
