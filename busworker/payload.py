"""Events to bytes and back, checked against the topic's type in both directions; here as JSON by msgspec.

Those that are pydantic models are encoded in `busworker.models`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, cast, get_origin

import msgspec

from busworker.errors import ConfigurationError, DecodeError, EncodeError

T = TypeVar("T")

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
"""What a handler of a `Pattern` gets: any JSON document."""

MAX_BODY = 16 * 1024 * 1024
"""Bytes; a larger body is refused when published."""


class Codec(Protocol[T]):
    """Encodes and decodes the events of one type."""

    def encode(self, event: T) -> bytes:
        """The event as JSON.

        Raises:
            EncodeError: it doesn't fit the type, isn't JSON, or is over `MAX_BODY`.
        """
        ...

    def decode(self, body: bytes) -> T:
        """The event of a body.

        Raises:
            DecodeError: the body is no JSON or doesn't fit the type.
        """
        ...


class MsgspecCodec(Generic[T]):
    """The codec of all types but those of pydantic.

    Args:
        event_type: a dataclass, `msgspec.Struct`, TypedDict, or a builtin or typing construct of such.

    Raises:
        ConfigurationError: msgspec can't handle that type.
    """

    def __init__(self, event_type: type[T]) -> None:
        self._type = event_type
        try:
            self._decoder = msgspec.json.Decoder(event_type)
        except (TypeError, NameError) as error:
            raise ConfigurationError(f"events of type {event_type!r} can't be JSON: {error}") from error
        if foreign := _foreign_classes(event_type):
            raise ConfigurationError(
                f"events of type {event_type!r} can't be JSON: make {foreign[0].__name__} a dataclass or msgspec.Struct"
            )
        self._record = record_class(event_type, msgspec.Struct)

    def encode(self, event: T) -> bytes:
        """See `Codec.encode`."""
        check_class(event, self._record)
        try:
            body = msgspec.json.encode(event)
            self._decoder.decode(body)
            if b"null" in body:  # msgspec writes NaN and infinity as null, which would be another event
                json.dumps(msgspec.to_builtins(event, str_keys=True), allow_nan=False)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise EncodeError(f"the event doesn't fit its topic: {error}") from error
        return within_limit(body)

    def decode(self, body: bytes) -> T:
        """See `Codec.decode`."""
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise DecodeError(f"the body doesn't fit its topic: {error}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
            raise DecodeError(f"the body is no JSON that can be read: {error}") from error


def _foreign_classes(event_type: object) -> list[type[Any]]:
    """The classes within a type that msgspec takes for a decoder, but can't make from JSON."""
    found: list[type[Any]] = []

    def noted(kind: type[Any]) -> dict[str, Any]:
        if kind is not object:  # any JSON is one
            found.append(kind)
        return {"title": kind.__name__}

    with contextlib.suppress(TypeError):  # a default that can't be JSON is no matter until an event has it
        msgspec.json.schema(event_type, schema_hook=noted)
    return found


def record_class(event_type: object, base: type[Any]) -> type[Any] | None:
    """The class that events must have: that of a dataclass, or one derived from `base`; None for other types.

    Only records are checked by class: two of them may have the same fields and mean different things.
    """
    plain = cast("object", get_origin(event_type) or event_type)
    if isinstance(plain, type) and (dataclasses.is_dataclass(plain) or issubclass(plain, base)):
        return cast("type[Any]", plain)
    return None


def check_class(event: object, record: type[Any] | None) -> None:
    """Refuses an event of another class.

    Raises:
        EncodeError: it isn't of that class.
    """
    if record is not None and not isinstance(event, record):
        raise EncodeError(f"this topic takes {record.__name__}, not {type(event).__name__}")


JSON_CODEC: Codec[Json] = cast("Codec[Json]", MsgspecCodec(cast("type[Any]", Any)))
"""The codec of patterns: any JSON document."""


def within_limit(body: bytes) -> bytes:
    """The body itself.

    Raises:
        EncodeError: it is longer than `MAX_BODY`.
    """
    if len(body) > MAX_BODY:
        raise EncodeError(f"the body has {len(body):,} bytes, over the limit of {MAX_BODY:,} (16 MiB)")
    return body
