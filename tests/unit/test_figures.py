"""How fast a channel goes."""

import pytest

from busworker.consumer.figures import WINDOW, Figures


def test_a_rate_is_that_of_the_last_seconds() -> None:
    figures = Figures(100.0)
    assert figures.rate(100.0) == 0
    for second in range(100, 160):
        figures.ended(30, second + 0.25)
        figures.ended(20, second + 0.75)
    assert figures.rate(160.0) == pytest.approx(50)
    assert figures.rate(160.0 + WINDOW / 2) == pytest.approx(25)
    assert figures.rate(160.0 + WINDOW) == 0


def test_a_young_consumer_tells_the_rate_of_its_own_time() -> None:
    figures = Figures(100.0)
    figures.ended(8, 100.1)
    assert figures.rate(100.2) == 8
    assert figures.rate(104.0) == 2
