"""Random lives of messages, of which each step is real but chosen by chance, against the table of what may be.

`tox -e soak` plays more of them, other ones each time. By hand: LIFE_EXAMPLES, and LIFE_SEED to have the same again.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = os.environ.get("LIFE_EXAMPLES", "35")
AMQP_EXAMPLES = os.environ.get("LIFE_EXAMPLES", "3")
SEED = os.environ.get("LIFE_SEED", "")
HAPPENED = (
    "drained",
    "fault: lost at fetch",
    "fault: lost at settle",
    "fault: refused at settle",
    "killed: consumer",
    "killed: elsewhere",
    "killed: tree",
    "left",
    "nonsense",
    "outcome sent: dies",
    "outcome sent: dies halfway",
    "outcome sent: goes on",
    "published: foreign",
    "published: pattern",
    "published: stray",
    "replayed",
    "retired",
    "settled: crash",
    "settled: exception",
    "settled: invalid",
    "settled: rejected",
    "settled: returned",
    "settled: time_limit",
    "settled: unhandled",
    "worker died",
    "worker stopped",
)
HAPPENED_ON_AMQP = {
    "drained",
    "fault: lost at fetch",
    "fault: lost at settle",
    "killed: consumer",
    "killed: tree",
    "settled: crash",
    "settled: exception",
    "settled: returned",
    "worker died",
}
"""In the few lives of everyday; another instance takes nothing over there."""


@pytest.mark.timeout(120 + int(EXAMPLES) * 2)
def test_no_order_of_events_loses_a_message_or_charges_one_that_waited() -> None:
    assert set(HAPPENED) - lived(EXAMPLES, "") == set(), "too few lives"


@pytest.mark.timeout(120 + int(AMQP_EXAMPLES) * 10)
def test_no_order_of_events_on_amqp_loses_a_message_or_charges_one_that_waited(amqp_url: str) -> None:
    assert HAPPENED_ON_AMQP - lived(AMQP_EXAMPLES, amqp_url) == set(), "too few lives"


def lived(examples: str, broker: str) -> set[str]:
    """What happened in so many lives; fails if something did that may not."""
    # A process of its own: it forks consumers, and so may have one thread only.
    told = subprocess.run(
        [sys.executable, "-m", "tests.support.life", examples, SEED, broker],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    print(told.stdout)
    assert told.returncode == 0, told.stdout + told.stderr
    return {what for _, what in (line.strip().split(" ", 1) for line in told.stdout.splitlines())}
