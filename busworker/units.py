"""Durations and sizes as people write them: `"10m"`, `"512MB"`. Pure."""

from __future__ import annotations

import re

from busworker.errors import ConfigurationError

_DURATION = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_LONGEST = 1e9  # 31 years; some ten times that is more than setitimer(2) and Python's clocks take
_LARGEST = 2**63
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def seconds(value: float | str, what: str, *, least: float = 0) -> float:
    """A duration in seconds: a number of them, or a text with one of ms, s, m, h, d.

    Raises:
        ConfigurationError: it is none, less than `least`, or over 31 years; `what` is named.
    """
    number = _parsed(value, _DURATION, "s") if isinstance(value, str) else _number(value)
    if number is None or not least <= number <= _LONGEST:
        raise ConfigurationError(f'{what}={value!r}: give seconds of at least {least:g}, or a text like "10m"')
    return float(number)


def size(value: int | str, what: str) -> int:
    """A size in bytes: a number of them, or a text with one of B, KB, MB, GB, KiB, MiB, GiB.

    Raises:
        ConfigurationError: it is none, or not positive; `what` is named.
    """
    number = _parsed(value, _SIZE, "b") if isinstance(value, str) else _number(value)
    if number is None or not 1 <= number < _LARGEST:
        raise ConfigurationError(f'{what}={value!r}: give a positive number of bytes, or a text like "512MB"')
    return int(number)


def megabytes(number: int) -> str:
    """Bytes as people read them."""
    return f"{number / 1e6:,.1f} MB"


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


def _parsed(text: str, units: dict[str, float] | dict[str, int], default: str) -> float | None:
    match = _NUMBER.fullmatch(text)
    unit = units.get((match[2] or default).lower()) if match else None
    return float(match[1]) * unit if match and unit is not None else None
