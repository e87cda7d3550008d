"""How what commands print fits a terminal; tests/process/test_control.py looks at one."""

import pytest

from busworker.cli.output import LEAST, fitting, padded, shortened
from busworker.demo.screen import wrapped

LONG = "the handler had run for 2.0 s when its time limit was over"


@pytest.mark.parametrize(
    ("room", "last"),
    [
        (None, LONG),
        (200, LONG),
        (40, "the handler had run for 2.0 s …"),
        (10, "the handler had run…"),
    ],
)
def test_the_last_column_is_cut_to_the_room_there_is(room: int | None, last: str) -> None:
    line = padded(["ab", "c", LONG], [3, 2, 90], room)
    assert line == f"ab   c   {last}"
    assert room is None or len(line) <= max(room, 9 + LEAST)


@pytest.mark.parametrize(
    ("room", "kept"),
    [
        (None, [0, 1, 2, 3, 4, 5]),
        (140, [0, 1, 2, 3, 4, 5]),
        (135, [0, 1, 2, 3, 4, 5]),
        (134, [0, 1, 2, 4, 5]),
        (100, [0, 1, 2, 5]),
        (80, [0, 2, 5]),
        (20, [0, 2, 5]),
    ],
)
def test_columns_that_can_be_spared_go_where_there_is_no_room(room: int | None, kept: list[int]) -> None:
    assert list(fitting([32, 29, 10, 8, 26, 90], room, (3, 4, 1))) == kept


def test_a_short_last_column_needs_only_its_own_width() -> None:
    assert list(fitting([32, 29, 10, 8, 26, 5], 120, (3, 4, 1))) == [0, 1, 2, 3, 4, 5]


def test_a_line_of_a_table_ends_with_its_text() -> None:
    assert padded(["a", "b", ""], [3, 3, 3], 80) == "a    b"
    assert padded(["a"], [3], 80) == "a"


def test_what_fits_is_not_cut() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "ab…"


def test_a_step_of_the_demo_is_wrapped_below_its_text() -> None:
    line = "  0.0 s  the bus is filesystem:///tmp/busworker-demo-0-ys17vmpc/bus, the logs are in /tmp/x"
    assert wrapped(line, 80).splitlines() == [
        "  0.0 s  the bus is filesystem:///tmp/busworker-demo-0-ys17vmpc/bus, the logs",
        "         are in /tmp/x",
    ]
    assert wrapped(line, 30).splitlines()[1] == "         filesystem:///tmp/busworker-demo-0-ys17vmpc/bus,"
