"""How far a look goes, on a model of how a quorum queue takes messages back (rabbit_fifo of RabbitMQ 3.10)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busworker.broker import lookahead
from busworker.broker.lookahead import FIRST, MOST, MOST_BYTES, Lookahead

CONSUMERS = 32
"""From more on their order is anybody's guess."""


class Queue:
    """What was never delivered, and before that what came back, each in its order."""

    def __init__(self, number: int) -> None:
        self.returns: list[int] = []
        self.messages = list(range(number))

    @property
    def order(self) -> list[int]:
        return self.returns + self.messages

    def look(self, limit: int | None, size: int = 1000) -> list[int]:
        """One look, as `Browsing` does it; what it shows."""
        before = self.order
        ahead = Lookahead(len(before), limit)
        parts: list[int] = []
        while ahead.more:
            if part := ahead.grant():
                parts.append(part)
            assert ahead.outstanding, "nothing would come any more"
            place = sum(parts) - ahead.outstanding
            ahead.came(size, in_place=place >= len(self.returns))
        assert len(parts) <= CONSUMERS
        assert max(parts, default=0) <= lookahead.MOST
        self._take_back(sum(parts))
        return before[:limit]

    def _take_back(self, delivered: int) -> None:
        order = self.order
        fresh = max(delivered - len(self.returns), 0)
        self.messages = self.messages[fresh:]
        self.returns = self.returns[delivered:] + order[:delivered]


@given(
    number=st.integers(0, 3000),
    looks=st.lists(st.one_of(st.none(), st.integers(0, 3500)), max_size=20),
    size=st.integers(0, MOST_BYTES * 2),
)
def test_looks_of_any_length_leave_the_order(number: int, looks: list[int | None], size: int) -> None:
    queue = Queue(number)
    for limit in looks:
        assert queue.look(limit, size) == list(range(number))[:limit]
        assert queue.order == list(range(number))


@pytest.mark.parametrize(("number", "most"), [(1_000, MOST), (100_000, MOST), (19_000, 655)])
def test_a_long_queue_is_read_by_few_consumers(number: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookahead, "MOST", most)
    queue = Queue(number)
    for limit in (100, None, 100):
        queue.look(limit)
        assert queue.order == list(range(number))


def test_pages_of_one_size_have_little_more_delivered_each_time() -> None:
    queue = Queue(100_000)
    for _ in range(5):
        queue.look(100)
    assert len(queue.returns) < 1000


def test_what_is_large_comes_a_few_at_a_time() -> None:
    ahead = Lookahead(1000, None)
    assert ahead.grant() == FIRST
    assert ahead.grant() == 0, "before it is known how large they are"
    for _ in range(FIRST):
        ahead.came(MOST_BYTES // 10, in_place=True)
    assert ahead.grant() == 10


def test_what_somebody_else_has_taken_is_not_waited_for() -> None:
    ahead = Lookahead(100, None)
    ahead.grant()
    ahead.came(10, in_place=False)
    ahead.end(rest=3)
    assert not ahead.more
    assert ahead.there == 4, "what is there once all is back"
