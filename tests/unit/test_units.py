"""Durations and sizes as people write them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busworker.errors import ConfigurationError
from busworker.units import seconds, size


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10m", 600.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        ("2 d", 172_800.0),
        (" 30S ", 30.0),
        ("7", 7.0),
        (7, 7.0),
        (0.5, 0.5),
        (0, 0.0),
        (1e9, 1e9),
    ],
)
def test_a_duration_is_float_seconds(text: float | str, value: float) -> None:
    found = seconds(text, "x")
    assert found == value
    assert isinstance(found, float)


@pytest.mark.parametrize(
    "wrong", ["", "soon", "m", "10 parsecs", "-1s", "1e3", "1,5s", "nan", "10MB", -1, float("nan"), float("inf"), 1e10]
)
def test_what_is_no_duration_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="time_limit"):
        seconds(wrong, "time_limit")


@pytest.mark.parametrize("less", [0, "0s", 0.0009])
def test_a_duration_may_have_a_least_value(less: float | str) -> None:
    with pytest.raises(ConfigurationError, match=r"at least 0\.001"):
        seconds(less, "time_limit", least=0.001)
    assert seconds(0.001, "time_limit", least=0.001) == 0.001


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("512MB", 512_000_000),
        ("512MiB", 512 * 1024**2),
        ("1.5 kb", 1500),
        ("2GiB", 2 * 1024**3),
        ("3gb", 3_000_000_000),
        ("1KiB", 1024),
        ("10B", 10),
        ("10", 10),
        (10, 10),
    ],
)
def test_a_size_is_integer_bytes(text: int | str, value: int) -> None:
    found = size(text, "x")
    assert found == value
    assert isinstance(found, int)


@pytest.mark.parametrize("wrong", ["", "big", "MB", "-1MB", "0", "0.5B", "10m", 0, -1, float("nan"), 2**63])
def test_what_is_no_size_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="memory_limit"):
        size(wrong, "memory_limit")


@given(st.text())
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        found = seconds(text, "x")
    except ConfigurationError:
        return
    assert 0 <= found <= 1e9
