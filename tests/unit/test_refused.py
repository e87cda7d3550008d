"""What a broker refused is tried again, with growing pauses, until it is stored."""

from busworker.broker.refused import PAUSES, Refused
from busworker.broker.session import Settled

ONE, TWO = Settled(1, "ack"), Settled(2, "ack")


def test_it_is_tried_again_after_a_pause() -> None:
    refused = Refused()
    refused.add(ONE, "full", 10.0)
    refused.add(TWO, "full", 10.05)
    assert (refused.why, refused.again_at) == ("full", 10.0 + PAUSES[0])
    assert refused.take(10.0) == []
    assert refused.take(10.0 + PAUSES[0]) == [ONE, TWO]
    assert refused.again_at == float("inf")


def test_the_pauses_grow_until_all_is_stored() -> None:
    refused = Refused()
    now = 0.0
    for pause in (*PAUSES, PAUSES[-1]):
        refused.add(ONE, "full", now)
        assert refused.again_at == now + pause
        now = refused.again_at
        assert refused.take(now) == [ONE]
    refused.stored(ONE)
    assert refused.why is None
    refused.add(ONE, "full", now)
    assert refused.again_at == now + PAUSES[0]


def test_what_was_never_refused_clears_nothing() -> None:
    refused = Refused()
    refused.add(ONE, "full", 0.0)
    refused.stored(TWO)
    assert refused.why == "full"
    refused.take(1.0)
    refused.stored(TWO)
    assert refused.why == "full"
    refused.stored(ONE)
    assert refused.why is None
