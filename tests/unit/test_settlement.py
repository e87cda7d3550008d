"""What becomes of a message: the table of the guarantees page as an oracle, and what holds in every history."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busworker import outcome as how
from busworker.declaration import SubscriptionSpec
from busworker.message import Outgoing
from busworker.outcome import Error, Outcome
from busworker.retry import LADDER, RetryPolicy, on_ladder
from busworker.settlement import Dead, Done, GiveBack, RetryIn, Settlement, charged, settle

ERROR = Error("ValueError", "no such user", "stack")
SENT = (Outgoing("busworker", "mail.sent", b"{}", {}, {}),)
POLICY = RetryPolicy(max_attempts=3, delays=(4, 600))


@dataclass(frozen=True)
class Row:
    """A row of the table: `again` is the reason of a message that is tried again, `dead` that of one that isn't."""

    outcome: Outcome
    is_charged: bool
    again: str | None = None
    dead: str | None = None


TABLE = {
    "raised": Row(how.Raised(ERROR), True, again="exception"),
    "Retry": Row(how.Raised(ERROR), True, again="exception"),
    "soft or hard time limit": Row(how.TimedOut(ERROR), True, again="time_limit"),
    "memory limit": Row(how.MemoryExceeded(ERROR), True, again="memory_limit"),
    "exit or signal": Row(how.Crashed(ERROR), True, again="crash"),
    "Reject": Row(how.Rejected(ERROR), True, dead="rejected"),
    "dead_on": Row(how.Rejected(ERROR, "exception"), True, dead="exception"),
    "payload doesn't fit": Row(how.Invalid(ERROR), False, dead="invalid"),
    "topic not served": Row(how.Unhandled(ERROR), False, dead="unhandled"),
    "expired": Row(how.Expired(ERROR), False, dead="expired"),
    "delivery limit": Row(how.Expired(ERROR, "delivery_limit"), False, dead="delivery_limit"),
}
rows = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
attempts = pytest.mark.parametrize("attempt", [1, 2, 3])


def told(row: Row, attempt: int, policy: RetryPolicy) -> Settlement:
    """What the table says."""
    if row.again is not None and attempt < policy.max_attempts:
        return RetryIn(on_ladder(policy.delay_after(attempt)), attempt + 1)
    reason = row.again or row.dead
    assert reason is not None
    return Dead(reason, attempt if row.is_charged else attempt - 1, ERROR)


@rows
@attempts
def test_a_message_becomes_what_the_table_says(row: Row, attempt: int) -> None:
    assert settle(row.outcome, attempt, POLICY) == told(row, attempt, POLICY)


@rows
def test_an_outcome_is_charged_as_the_table_says(row: Row) -> None:
    assert charged(row.outcome) is row.is_charged


@attempts
def test_what_the_handler_published_goes_out_with_the_acknowledgement(attempt: int) -> None:
    assert settle(how.Returned(SENT), attempt, POLICY) == Done(SENT)
    assert charged(how.Returned())


@attempts
def test_what_we_stopped_is_given_back_uncharged(attempt: int) -> None:
    assert settle(how.Stopped(), attempt, POLICY) == GiveBack()
    assert not charged(how.Stopped())


def test_the_table_has_every_outcome() -> None:
    known = {type(row.outcome) for row in TABLE.values()} | {how.Returned, how.Stopped}
    assert known == set(Outcome.__args__)


@pytest.mark.parametrize(("after", "delay"), [(0, 0), (0.5, 1), (3, 5), (86_400, 86_400)])
def test_the_delay_of_a_retry_wins_over_the_policys(after: float, delay: int) -> None:
    assert settle(how.Raised(ERROR, after), 1, POLICY) == RetryIn(delay, 2)


def test_retry_at_the_last_attempt_is_a_dead_letter() -> None:
    assert settle(how.Raised(ERROR, 10.0), 3, POLICY) == Dead("exception", 3, ERROR)


def test_an_attempt_over_a_lowered_maximum_counts_as_the_last() -> None:
    assert settle(how.Crashed(ERROR), 7, POLICY) == Dead("crash", 7, ERROR)


def test_a_declared_subscription_is_a_policy() -> None:
    spec = SubscriptionSpec("a.b", False, 3, (4, 600), 600.0, 5.0)
    for attempt in range(1, 5):
        assert settle(how.Raised(ERROR), attempt, spec) == settle(how.Raised(ERROR), attempt, POLICY)


delays = st.floats(0, 86_400)
policies = st.builds(RetryPolicy, st.integers(1, 12), st.lists(delays, min_size=1, max_size=6))
failures = st.one_of(
    st.builds(how.Raised, st.just(ERROR), st.none() | delays),
    st.sampled_from([how.TimedOut(ERROR), how.MemoryExceeded(ERROR), how.Crashed(ERROR)]),
)
endings = st.sampled_from([how.Returned(), *(row.outcome for row in TABLE.values() if row.dead)])
outcomes = st.one_of(failures, st.just(how.Stopped()), endings)


@given(policies, st.lists(outcomes, max_size=40))
def test_no_history_has_more_charged_executions_than_attempts(policy: RetryPolicy, history: list[Outcome]) -> None:
    attempt, executions = 1, 0
    for outcome in history:
        executions += charged(outcome)
        settlement = settle(outcome, attempt, policy)
        match settlement:
            case RetryIn(_, following):
                assert charged(outcome)
                assert following == attempt + 1 == executions + 1
                attempt = following
            case Dead(_, counted, _):
                assert counted == executions
                break
            case GiveBack():
                assert not charged(outcome)
            case Done():
                break
        assert attempt <= policy.max_attempts
    assert executions <= policy.max_attempts


@given(policies, failures, st.integers(1, 12))
def test_a_delay_is_always_the_policys_or_the_handlers_on_the_ladder(
    policy: RetryPolicy, outcome: Outcome, attempt: int
) -> None:
    settlement = settle(outcome, attempt, policy)
    after = outcome.after if isinstance(outcome, how.Raised) else None
    if isinstance(settlement, RetryIn):
        asked = policy.delay_after(attempt) if after is None else after
        assert settlement.delay == on_ladder(asked)
        assert settlement.delay in (0, *LADDER)
        assert settlement.delay >= asked
    else:
        assert attempt >= policy.max_attempts
