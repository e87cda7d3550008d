"""The checker of the chaos: it lets pass what the design allows, and refuses every history that breaks a promise."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.chaos.checker import check
from tests.support.chaos.copies import MOST_HELD
from tests.support.chaos.history import Fault, Key, Letter, Limits, Story, read
from tests.support.chaos.schedule import AMQP_DECK, CHANNELS, DECK, Deck, schedule

LIMITS = Limits(max_attempts=3, time_limit=1.0, kill_after=0.5, workers={"c": 2, "d": 1})
M = Key("c", "m")
QUICKLY, SLOWLY = (9.0, 9.1), (9.0, 9.9)
"""When its publisher was at it."""


def told(
    *lines: str, faults: tuple[Fault, ...] = (), letters: tuple[Letter, ...] = (), queued: tuple[Key, ...] = ()
) -> list[str]:
    """What the checker says when m was published and confirmed; lines are `B attempt pid time deed`."""
    executions = read(" ".join([kind, "c", "m", *rest]) for kind, *rest in (line.split() for line in lines))
    return check(Story(LIMITS, executions, faults, letters, frozenset([M]), frozenset([M]), frozenset(queued)))


def amqp(
    *lines: str,
    faults: tuple[Fault, ...] = (),
    letters: tuple[Letter, ...] = (),
    published: tuple[float, float] = QUICKLY,
) -> list[str]:
    """The same with RabbitMQ."""
    executions = read(" ".join([kind, "c", "m", *rest]) for kind, *rest in (line.split() for line in lines))
    only = frozenset([M])
    return check(Story(LIMITS, executions, faults, letters, only, only, published={M.name: published}))


def relayed(*lines: str, faults: tuple[Fault, ...] = ()) -> list[str]:
    """The same of a message that the handler of another one publishes; lines are `B channel attempt pid time deed`."""
    executions = read(" ".join([kind, where, "m", *rest]) for kind, where, *rest in (line.split() for line in lines))
    both = frozenset([Key("relay", "m"), Key("tail", "m")])
    limits = Limits(max_attempts=3, time_limit=1.0, kill_after=0.5, workers={"relay": 1, "tail": 1})
    return check(Story(limits, executions, faults, (), both, both, published={"m": QUICKLY}))


def kill(target: str, at: float, channel: str = "", pid: int = 0) -> Fault:
    return Fault("kill", target, at, at + 0.01, channel, pid)


RETURNED = ("B 1 7 10.0 work", "E 1 7 10.1 returned")
AGAIN = ("B 2 8 10.5 work", "E 2 8 10.6 returned")
FAILED = ("B 1 7 10.0 raise", "E 1 7 10.1 ValueError")
ONCE_MORE = ("B 1 8 10.5 work", "E 1 8 10.6 returned")
CUT = ("B 1 7 10.0 work",)
HANDED_ON = (
    "B relay 1 7 10.0 work", "E relay 1 7 10.1 returned", "B tail 1 8 10.1 work", "E tail 1 8 10.2 returned",
    "B tail 1 8 10.4 work", "E tail 1 8 10.5 returned",
)  # fmt: skip


def cut(at: float) -> Fault:
    return Fault("cut", "connections", at, at + 0.05)


def broken(at: float) -> Fault:
    return Fault("kill", "broker", at, at + 0.2)


DEAD = Letter(M, "exception", 3)

ALLOWED = {
    "done": told(*RETURNED),
    "failed, then done": told(*FAILED, *AGAIN),
    "crashed by itself": told("B 1 7 10.0 crash", *AGAIN),
    "its worker was killed": told(*CUT, *AGAIN, faults=(kill("worker", 10.2, "c", 7),)),
    "its consumer was killed": told(*CUT, *AGAIN, faults=(kill("consumer", 10.2, "c"),)),
    "its supervisor was killed": told(*CUT, *AGAIN, faults=(kill("supervisor", 10.2),)),
    "finished, and unsettled when the consumer was killed": told(
        *RETURNED, *AGAIN, faults=(kill("consumer", 10.2, "c"),)
    ),
    "unsettled for long, for the disk was full": told(
        *RETURNED,
        "B 2 8 60.0 work",
        "E 2 8 60.1 returned",
        faults=(Fault("full", "disk", 9.0, 50.0), kill("tree", 50.1)),
    ),
    "charged before the handler began": told(*AGAIN, faults=(kill("worker", 9.0, "c", 5),)),
    "the soft limit": told("B 1 7 10.0 hang", "E 1 7 11.0 TimeLimitExceeded", "B 2 7 12.0 work", "E 2 7 12.1 returned"),
    "the hard limit": told("B 1 7 10.0 stubborn", "B 2 8 11.6 work", "E 2 8 12.1 returned"),
    "its worker was stopped for too long": told(
        *CUT, "B 2 8 13.0 work", "E 2 8 13.1 returned", faults=(Fault("stop", "worker", 9.9, 12.0, "c", 7),)
    ),
    "dead after all attempts": told(
        *FAILED, "B 2 7 11.0 poison", "E 2 7 11.1 ValueError", "B 3 7 12.0 poison", "E 3 7 12.1 ValueError",
        letters=(DEAD,),
    ),
    "returned in the last attempt, and unsettled when the tree was killed": told(
        *FAILED, "B 2 7 11.0 poison", "E 2 7 11.1 ValueError", "B 3 7 12.0 work", "E 3 7 12.1 returned",
        faults=(kill("tree", 12.2),), letters=(Letter(M, "crash", 3),),
    ),
    "still waiting for its retry": told(*FAILED, queued=(M,)),
    "still waiting": told(queued=(M,)),
    "published again, for the confirm was lost": amqp(*RETURNED, *ONCE_MORE, faults=(cut(9.5),), published=SLOWLY),
    "settled, and its consumer killed before that could be known": amqp(
        *RETURNED, *ONCE_MORE, faults=(kill("consumer", 10.2, "c"),)
    ),
    "settled as the broker was killed, and then the consumer was": amqp(
        *RETURNED, "B 1 8 15.0 work", "E 1 8 15.1 returned", faults=(broken(10.15), kill("tree", 14.0))
    ),
    "settled as the connection was cut, and then the consumer was killed": amqp(
        *RETURNED, *ONCE_MORE, faults=(cut(10.15), kill("consumer", 10.3, "c"))
    ),
    "its retry sent again": amqp(
        *FAILED, *AGAIN, "B 2 8 10.7 work", "E 2 8 10.8 returned", faults=(cut(10.15),)
    ),
    "its retry sent, and not acknowledged when the consumer was killed": amqp(
        *FAILED, *AGAIN, "B 2 8 10.7 work", "E 2 8 10.8 returned", faults=(kill("consumer", 10.15, "c"),)
    ),
    "dead twice": amqp(
        "B 3 7 10.0 raise", "E 3 7 10.1 ValueError", letters=(DEAD, DEAD), faults=(kill("tree", 9.0), cut(10.15))
    ),
    "what its handler published sent again": relayed(*HANDED_ON, faults=(cut(10.15),)),
    "cut long after, and all is as without": amqp(*FAILED, *AGAIN, faults=(cut(20.0),)),
}  # fmt: skip

REFUSED = [
    ("is lost; its last execution: none", told()),
    ("is lost; its last execution: [c/m attempt 1 work", told(*CUT, faults=(kill("worker", 10.2, "c", 7),))),
    ("is lost; its last execution: [c/m attempt 1 raise", told(*FAILED)),
    ("for no reason", told(*RETURNED, *AGAIN)),
    ("returned] repeats", told(*RETURNED, *AGAIN, faults=(kill("worker", 10.2, "c", 9),))),
    ("cut] for no reason", told(*CUT, *AGAIN, faults=(kill("consumer", 10.2, "d"),))),
    ("cut] for no reason", told(*CUT, *AGAIN, faults=(kill("worker", 10.7, "c", 7),))),
    ("10.100 returned] for no reason", told(
        *RETURNED, "B 2 8 60.0 work", "E 2 8 60.1 returned", faults=(kill("tree", 40.0),)
    )),
    ("which was not charged", told(*FAILED, "B 1 7 11.0 work", "E 1 7 11.1 returned")),
    ("attempt 2 was charged, and never executed", told(*FAILED, "B 3 7 11.0 work", "E 3 7 11.1 returned")),
    ("attempt 1 was charged, and never executed", told(*AGAIN)),
    ("but only 1 processes were cut", told(
        "B 3 7 11.0 work", "E 3 7 11.1 returned", faults=(kill("worker", 9.0, "c", 5),)
    )),
    ("is beyond max_attempts", told(
        *FAILED, "B 2 7 11.0 raise", "E 2 7 11.1 ValueError", "B 3 7 12.0 raise", "E 3 7 12.1 ValueError",
        "B 4 7 13.0 work", "E 4 7 13.1 returned",
    )),
    ("was executing", told(*FAILED[:1], "B 2 8 10.05 work", *FAILED[1:], "E 2 8 10.2 returned")),
    ("never ended, but its worker went on", told(*CUT, "B 2 7 10.5 work", "E 2 7 10.6 returned")),
    ("met the time limit after 0.10 s", told("B 1 7 10.0 work", "E 1 7 10.1 TimeLimitExceeded", *AGAIN)),
    ("met the time limit after 0.20 s", told(
        "B 1 7 10.0 work", "E 1 7 13.2 TimeLimitExceeded", "B 2 7 14.0 work", "E 2 7 14.1 returned",
        faults=(Fault("stop", "tree", 10.1, 13.1),),
    )),
    ("stubborn, pid 7, 10.000 cut] for no reason", told("B 1 7 10.0 stubborn", *AGAIN)),
    ("ended as KeyError", told("B 1 7 10.0 work", "E 1 7 10.1 KeyError", *AGAIN)),
    ("is dead after 1 attempts", told(*FAILED, letters=(Letter(M, "exception", 1),))),
    ("is dead for no reason", told(*RETURNED, letters=(Letter(M, "crash", 1),))),
    ("is dead for the reason exception", told(
        "B 3 7 10.0 work", letters=(DEAD,), faults=(kill("worker", 9.0, "c", 5), kill("worker", 10.1, "c", 7))
    )),
    ("is a dead letter twice", told(letters=(DEAD, DEAD))),
    ("is a dead letter and still queued", told(letters=(DEAD,), queued=(M,))),
    ("was settled, but is still queued", told(*RETURNED, queued=(M,))),
    ("which was not charged", told(*RETURNED, *ONCE_MORE, faults=(kill("consumer", 10.2, "c"),))),
    ("which was not charged", amqp(*RETURNED, *ONCE_MORE)),
    ("which was not charged", amqp(*RETURNED, *ONCE_MORE, faults=(cut(10.05), cut(10.15)))),
    ("which was not charged", amqp(*RETURNED, *ONCE_MORE, faults=(cut(9.5),))),
    ("which was not charged", amqp(*RETURNED, *ONCE_MORE, published=SLOWLY)),
    ("which was not charged", amqp(*RETURNED, *ONCE_MORE, faults=(cut(10.15), kill("consumer", 10.3, "d")))),
    ("which was not charged", amqp(*RETURNED, *ONCE_MORE, faults=(cut(10.15), kill("worker", 10.3, "c", 7)))),
    ("which was not charged", amqp(*RETURNED, *ONCE_MORE, faults=(broken(10.05), broken(10.15)))),
    ("which was not charged", amqp(*CUT, *ONCE_MORE, faults=(kill("consumer", 10.2, "c"),))),
    ("was executing", amqp(
        "B 1 7 10.0 slow", "B 1 8 10.5 slow", "E 1 7 10.6 returned", "E 1 8 10.9 returned", faults=(broken(10.05),)
    )),
    ("for no reason", amqp(*RETURNED, "B 1 8 20.0 work", "E 1 8 20.1 returned", faults=(broken(15.0),))),
    ("for no reason", amqp(*RETURNED, *AGAIN, faults=(broken(9.3),))),
    ("[tail/m attempt 1 work, pid 8, 10.400 to 10.500 returned] repeats", relayed(*HANDED_ON, faults=(cut(20.0),))),
    ("attempt 1 was executed 3 times", amqp(
        *RETURNED, *ONCE_MORE, "B 1 7 10.7 work", "E 1 7 10.8 returned", faults=(cut(9.5),), published=SLOWLY
    )),
    ("is lost; its last execution: none", amqp(faults=(cut(9.5),), published=SLOWLY)),
    ("is lost; its last execution: [c/m attempt 1 raise", amqp(*FAILED, faults=(broken(10.15),))),
    ("is a dead letter twice", amqp(*FAILED, letters=(DEAD, DEAD), faults=(cut(20.0),))),
    ("is dead after 1 attempts", amqp(*FAILED, letters=(Letter(M, "exception", 1),), faults=(cut(10.15),))),
    ("c/x was never published", check(
        Story(LIMITS, [], (), (Letter(Key("c", "x"), "exception", 3),), frozenset(), frozenset())
    )),
]  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_what_the_design_allows_passes(name: str) -> None:
    assert ALLOWED[name] == []


@pytest.mark.parametrize(("complaint", "found"), REFUSED)
def test_a_broken_promise_is_found(complaint: str, found: list[str]) -> None:
    assert any(complaint in one for one in found), found


def test_no_fault_explains_that_more_came_again_than_a_consumer_holds() -> None:
    names = [f"m{number}" for number in range(4 * MOST_HELD + 1)]
    lines = [f"{line.replace(' ', f' c {name} ', 1)}" for name in names for line in (*RETURNED, *ONCE_MORE)]
    keys = frozenset(Key("c", name) for name in names)
    published = dict.fromkeys(names, QUICKLY)
    faults = (cut(10.15), kill("consumer", 10.3, "c"))
    found = check(Story(LIMITS, read(lines), faults, (), keys, keys, published=published))
    assert found == [f"{len(names)} messages were there twice, but the faults met at most {4 * MOST_HELD}"]


def test_a_line_that_ends_what_was_not_begun_is_no_history() -> None:
    with pytest.raises(ValueError, match="not begun"):
        read(["B c m 1 7 10.0 work", "E c n 1 7 10.1 returned"])


@pytest.mark.parametrize("deck", [DECK, AMQP_DECK], ids=["embedded", "amqp"])
def test_a_seed_gives_one_schedule_in_which_every_fault_comes(deck: Deck) -> None:
    steps = schedule(5, len(deck), 1000, deck)
    assert steps == schedule(5, len(deck), 1000, deck) != schedule(6, len(deck), 1000, deck)
    assert Counter((step.kind, step.target) for step in steps) == Counter(deck)
    assert [step.after for step in steps] == sorted({step.after for step in steps})
    assert {step.channel for step in steps} <= set(CHANNELS)


def test_nothing_is_killed_within_a_fault_that_is_not_in_the_deck() -> None:
    steps = schedule(5, 50, 1000, [("cut", "connections"), ("stop", "worker")])
    assert {step.within for step in steps} == {"", "worker"}
