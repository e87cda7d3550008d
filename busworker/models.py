"""Events that are pydantic models, or hold some, to bytes and back. The only place of pydantic; imported at need."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

import msgspec
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from busworker.errors import ConfigurationError, DecodeError, EncodeError
from busworker.payload import check_class, record_class, within_limit

T = TypeVar("T")

LONGEST_TEXT = 300
"""Characters of what pydantic says in an error: it quotes parts of the event."""
MOST_ERRORS = 1000
"""With more of them a list of all would cost more than its first is worth; pydantic makes no shorter one."""

_JSON = msgspec.json.Decoder(msgspec.Raw)
"""Says whether bytes are JSON: pydantic reads and may write NaN and Infinity, which are none."""


class ModelCodec(Generic[T]):
    """Encodes and decodes the events of one type by pydantic's rules and the configuration of its models.

    Written and read by alias, without computed fields, so that what was written can be read. When a model's
    configuration has `serialize_by_alias` or `validate_by_alias`, then each model's own decides how it is written.

    Args:
        event_type: a pydantic model, a pydantic dataclass, or a type that holds such.
        classes: all classes within it.

    Raises:
        ConfigurationError: pydantic can't handle that type.
    """

    def __init__(self, event_type: type[T], classes: Iterable[type[Any]]) -> None:
        try:
            self._adapter = TypeAdapter(event_type)
            self._adapter.rebuild(raise_errors=True)  # a model may have put that off, or not know all names yet
        except (PydanticUserError, TypeError, NameError) as error:
            raise ConfigurationError(f"events of type {event_type!r} can't be JSON: {_text(error)}") from error
        self._record = record_class(event_type, BaseModel)
        self._by_alias = None if any(map(_decides_on_aliases, classes)) else True

    def encode(self, event: T) -> bytes:
        """The event as JSON.

        Raises:
            EncodeError: it doesn't fit the type, isn't JSON, would arrive as another value, or is over `MAX_BODY`.
        """
        check_class(event, self._record)
        try:
            body = self._adapter.dump_json(event, by_alias=self._by_alias, round_trip=True, warnings="error")
            _JSON.decode(body)
            arrived = self._adapter.validate_json(body)
            changed = None if arrived == event else next(_changes(event, arrived, ""), None)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise EncodeError(f"the event doesn't fit its topic: {_text(error)}") from error
        if changed is not None:
            raise EncodeError(f"the event doesn't fit its topic: {changed}")
        return within_limit(body)

    def decode(self, body: bytes) -> T:
        """The event of a body.

        Raises:
            DecodeError: the body is no JSON or doesn't fit the type.
        """
        try:
            _JSON.decode(body)
            return self._adapter.validate_json(body)
        except ValidationError as error:
            what = "is no JSON that can be read" if _is_about_json(error) else "doesn't fit its topic"
            raise DecodeError(f"the body {what}: {_text(error)}") from error
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise DecodeError(f"the body is no JSON that can be read: {error}") from error


def _decides_on_aliases(kind: type[Any]) -> bool:
    config: Mapping[str, object] = (
        getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    )
    return "serialize_by_alias" in config or "validate_by_alias" in config


def _changes(sent: object, got: object, path: str) -> Iterator[str]:
    """The places where a handler gets something else than what was published.

    pydantic writes a model of another class that has the same fields, NaN as null, a secret as asterisks, and bytes in
    a form that the model may not read: all of that would arrive, as another event. A value that arrives as one of
    another type is no change: it was declared as `Any`, or the model converts it.
    """
    if (names := _fields(got)) is not None:
        if isinstance(sent, type(got)):
            for name in names:
                value: object = getattr(got, name)
                yield from _changes(getattr(sent, name, value), value, f"{path}.{name}")
        elif _fields(sent) is not None:
            yield f"{_at(path)}{type(sent).__name__} would arrive as {type(got).__name__}"
    elif (pairs := _pairs(sent, got)) is not None:
        for key, one, other in pairs:
            yield from _changes(one, other, f"{path}.{key}")
    elif _is_other(sent, got):
        yield f"{_at(path)}a handler would get another value"


def _pairs(sent: object, got: object) -> Iterable[tuple[object, object, object]] | None:
    """The items of two dicts, or of two sequences, that stand in the same places; None for other values."""
    if isinstance(got, dict) and isinstance(sent, dict):
        before = cast("dict[object, object]", sent)
        return [(key, before.get(key, value), value) for key, value in cast("dict[object, object]", got).items()]
    if isinstance(got, list | tuple) and isinstance(sent, list | tuple):
        one, other = cast("list[object]", sent), cast("list[object]", got)
        return zip(itertools.count(), one, other, strict=False) if len(one) == len(other) else None
    return None


def _fields(value: object) -> Iterable[str] | None:
    """The names of the fields of a model or dataclass that are written, and of what a model has beyond them."""
    known: Mapping[str, Any] | None = getattr(type(value), "__pydantic_fields__", None)
    if known is not None:
        beyond = (value.model_extra if isinstance(value, BaseModel) else None) or {}
        return [*(name for name, field in known.items() if not field.exclude), *beyond]
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    return None


def _is_other(sent: object, got: object) -> bool:
    if got is None:
        return sent is not None
    if type(sent) is not type(got) or type(got).__eq__ is object.__eq__:  # the latter can't be compared
        return False
    return bool(sent != got)


def _is_about_json(error: ValidationError) -> bool:
    return error.error_count() == 1 and _first(error)["type"] == "json_invalid"


def _first(error: ValidationError) -> Mapping[str, Any]:
    return error.errors(include_url=False, include_context=False, include_input=False)[0]


def _text(error: Exception) -> str:
    """What went wrong, in one line of bounded length."""
    text = _told(error) if isinstance(error, ValidationError) else str(getattr(error, "message", error))
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1]}…"


def _told(error: ValidationError) -> str:
    count = error.error_count()
    if count > MOST_ERRORS:
        return f"{count:,} parts of it don't"
    first, more = _first(error), f" (and {count - 1} more)" if count > 1 else ""
    return f"{_at(''.join(f'.{step}' for step in first['loc']))}{first['msg']}{more}"


def _at(path: str) -> str:
    return f"{path[1:]}: " if path else ""
