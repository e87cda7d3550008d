"""What was published counts as stored once the broker has confirmed all of it, and never if any came back."""

from busworker.broker.confirms import Batch, Confirms
from busworker.message import Outgoing


def outgoing(routing_key: str = "work", body: bytes = b"{}") -> Outgoing:
    return Outgoing("busworker.back", routing_key, body, {}, {})


def sent(confirms: Confirms, *messages: Outgoing) -> Batch:
    batch = Batch(len(messages))
    for message in messages:
        confirms.sent(message, batch, now=10.0)
    return batch


def test_a_batch_is_complete_with_its_last_confirm() -> None:
    confirms = Confirms()
    first, second = sent(confirms, outgoing(), outgoing()), sent(confirms, outgoing())
    confirms.confirmed(3, False, True)
    assert confirms.complete() == [second]
    confirms.confirmed(1, False, True)
    assert confirms.complete() == []
    confirms.confirmed(2, False, True)
    assert confirms.complete() == [first]
    assert first.refusal is None


def test_one_confirm_may_hold_for_all_before_it() -> None:
    confirms = Confirms()
    batches = [sent(confirms, outgoing()) for _ in range(5)]
    confirms.confirmed(2, False, True)
    confirms.confirmed(4, True, True)
    assert confirms.complete() == [batches[1], batches[0], batches[2], batches[3]]
    confirms.confirmed(4, True, True)
    assert confirms.complete() == []


def test_a_nack_says_that_it_is_not_stored() -> None:
    confirms = Confirms()
    stored, refused = sent(confirms, outgoing()), sent(confirms, outgoing(), outgoing("full"))
    confirms.confirmed(2, True, True)
    confirms.confirmed(3, False, False)
    assert confirms.complete() == [stored, refused]
    assert stored.refusal is None
    assert refused.refusal is not None
    assert "'full'" in refused.refusal


def test_what_came_back_is_not_stored_although_it_is_confirmed() -> None:
    confirms = Confirms()
    others = sent(confirms, outgoing(), outgoing(body=b"[1]"))
    gone = sent(confirms, outgoing("no.queue"))
    confirms.returned("NO_ROUTE", "busworker.back", "no.queue", b"{}")
    confirms.confirmed(3, True, True)
    assert confirms.complete() == [others, gone]
    assert others.refusal is None
    assert gone.refusal == "'no.queue' in exchange 'busworker.back' leads to no queue (NO_ROUTE)"


def test_only_what_was_refused_or_came_back_is_told_as_such() -> None:
    confirms = Confirms()
    kept, full, lonely = outgoing("a"), outgoing("full"), outgoing("no.queue")
    batch = sent(confirms, kept, full)
    meant = outgoing("topic")
    batch.left += 1
    confirms.sent(lonely, batch, meant, now=10.0)
    confirms.returned("NO_ROUTE", "busworker.back", "no.queue", b"{}")
    confirms.confirmed(1, False, True)
    confirms.confirmed(2, False, False)
    confirms.confirmed(3, False, True)
    assert confirms.complete() == [batch]
    assert batch.refused == [full, meant]


def test_the_one_that_waits_longest_is_told_with_its_time() -> None:
    confirms = Confirms()
    assert confirms.oldest is None
    for number, name in enumerate(["a", "b", "c"]):
        confirms.sent(outgoing(name), Batch(1), now=10.0 + number)
    confirms.confirmed(1, False, True)
    confirms.confirmed(3, False, True)
    assert confirms.oldest == (11.0, "'b' in exchange 'busworker.back'")
    confirms.confirmed(2, False, True)
    assert confirms.oldest is None


def test_confirms_of_what_is_not_known_are_ignored() -> None:
    confirms = Confirms()
    confirms.confirmed(7, False, True)
    confirms.confirmed(9, True, False)
    assert confirms.complete() == []
