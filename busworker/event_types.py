"""Which library makes JSON of a topic's events: msgspec, or pydantic where one of its models is part of the type."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import Any, TypeVar, get_args, get_type_hints

from busworker.errors import ConfigurationError
from busworker.payload import Codec, MsgspecCodec

T = TypeVar("T")

OLDEST_PYDANTIC = (2, 11)
"""The first in which a model says by which names it is written and read (`serialize_by_alias`)."""


def codec_for(event_type: type[T]) -> Codec[T]:
    """The codec of the events of a type.

    pydantic is imported only if the type holds something of pydantic's; who wrote that has imported it already.

    Raises:
        ConfigurationError: such events can't be JSON.
    """
    classes = classes_within(event_type) if "pydantic" in sys.modules else set[type[Any]]()
    if not any(map(_is_pydantics, classes)):
        return MsgspecCodec(event_type)
    _check_versions(event_type, classes)
    from busworker.models import ModelCodec

    return ModelCodec(event_type, classes)


def classes_within(event_type: object) -> set[type[Any]]:
    """All classes that a type is made of: its own, those of its fields and arguments, and of what annotates them."""
    found: set[type[Any]] = set()
    seen: set[int] = set()
    left: list[object] = [event_type]
    while left:
        part = left.pop()
        if id(part) not in seen:
            seen.add(id(part))
            found.add(part if isinstance(part, type) else type(part))
            left += _parts(part)
    return found


def _parts(kind: object) -> Iterable[object]:
    aliased = [getattr(kind, name) for name in ("__value__", "__supertype__") if hasattr(kind, name)]
    return [*aliased, *get_args(kind), *(_hints(kind) if isinstance(kind, type) else ())]


def _hints(kind: type[Any]) -> Iterable[object]:
    fields: dict[str, Any] | None = getattr(kind, "__pydantic_fields__", None)
    if fields is not None:  # with the arguments of a generic model in their places
        return [part for field in fields.values() for part in (field.annotation, *field.metadata)]
    with contextlib.suppress(NameError, TypeError):  # a name that can't be resolved: the library will say so
        return get_type_hints(kind, include_extras=True).values()
    return ()


def _is_pydantics(kind: type[Any]) -> bool:
    """Whether only pydantic understands that class: a model, a dataclass or a type of its own."""
    if "__pydantic_validator__" in vars(kind) or "__pydantic_model__" in vars(kind):
        return True
    return any(base.__module__.partition(".")[0] in ("pydantic", "pydantic_core") for base in kind.__mro__)


def _check_versions(event_type: object, classes: set[type[Any]]) -> None:
    version: str = sys.modules["pydantic"].VERSION
    if tuple(map(int, version.split(".")[:2])) < OLDEST_PYDANTIC:
        oldest = ".".join(map(str, OLDEST_PYDANTIC))
        raise ConfigurationError(
            f"events of type {event_type!r} can't be JSON: pydantic {version} is too old, install {oldest} or newer"
        )
    old = sorted(kind.__name__ for kind in classes if _is_version_1(kind))
    if old:
        raise ConfigurationError(
            f"events of type {event_type!r} can't be JSON: {old[0]} is a model of pydantic 1, derive it from "
            "pydantic.BaseModel instead of pydantic.v1.BaseModel"
        )


def _is_version_1(kind: type[Any]) -> bool:
    return "__pydantic_model__" in vars(kind) or any(
        base.__module__.startswith("pydantic.v1.") for base in kind.__mro__
    )
