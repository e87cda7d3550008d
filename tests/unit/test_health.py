"""What `health` says of every state of a service."""

import pytest

from busworker.supervisor.health import MOST_SUMMARY, ailing, summary
from busworker.supervisor.state import Pool, Service

NOW = 1000.0


def running(*names: str) -> Service:
    """A service whose channels are complete since NOW, each with two workers."""
    made = Service({name: Pool(name, 2) for name in names}, 25.0)
    for pool in made.pools.values():
        pool.consumer_ready(pool.consumer_started(1, NOW))
        for slot in range(2):
            pool.worker_started(slot, 2 + slot, NOW).started = True
        pool.note()
    return made


def test_a_service_that_runs_is_well() -> None:
    made = running("mail", "audit")
    assert [ailing(made, probe) for probe in ("live", "startup", "ready")] == [None, None, None]


def test_a_service_that_starts_is_live_and_says_what_it_waits_for() -> None:
    made = running("mail")
    late = made.pools["audit"] = Pool("audit", 2)
    assert ailing(made, "live") is None
    assert ailing(made, "startup") == "has not started: channel audit starts (its consumer isn't up)"
    consumer = late.consumer_started(9, NOW)
    assert ailing(made, "ready") == "is not ready: channel audit is starting (its subscriptions aren't bound yet)"
    late.consumer_ready(consumer)
    late.worker_started(0, 10, NOW).started = True
    late.note()
    assert ailing(made, "startup") == "has not started: channel audit starts (1 of 2 workers are up)"
    late.worker_started(1, 11, NOW).started = True
    assert ailing(made, "ready") is None


def test_what_comes_later_is_no_matter_of_the_start() -> None:
    made = running("mail", "audit")
    consumer = made.pools["mail"].consumer
    assert consumer is not None
    consumer.ready, consumer.trouble = False, "broker amqp://h is gone"
    made.pools["audit"].consumer_gone(NOW, worked=False)
    assert ailing(made, "startup") is None
    assert ailing(made, "ready") == (
        "is not ready: channel mail is failing (broker amqp://h is gone), channel audit is failing (its consumer died)"
    )


@pytest.mark.parametrize(("probe", "said"), [("ready", "is not ready: channel mail is draining"), ("live", None)])
def test_a_service_that_drains_is_live_and_not_ready(probe: str, said: str | None) -> None:
    made = running("mail")
    made.drain(NOW)
    assert ailing(made, probe) == said  # type: ignore[arg-type]


def test_the_summary_is_one_line_whatever_the_trouble_is() -> None:
    made = running("mail", "audit", "slow")
    made.pools["audit"].pause(float("inf"))
    del made.pools["slow"].workers[1]
    assert (
        summary(made)
        == "starting: mail has 2 of 2 workers up, audit is paused, slow is starting (1 of 2 workers are up)"
    )
    consumer = made.pools["mail"].consumer
    assert consumer is not None
    consumer.ready, consumer.trouble = False, "amqp://u:secret@h\nREADY=1 " + "x" * 5000
    assert summary(made).startswith("failing: mail is failing (amqp://u:***@h\\nREADY=1 xxx")
    assert len(summary(made)) == MOST_SUMMARY
