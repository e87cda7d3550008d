"""Handlers that misbehave: each is executed as often as allowed and ends as one dead letter that tells the truth,
while messages beside it, in the same workers and in another channel, are handled once, in a clean process.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.faults import misbehaving
from tests.faults.misbehaving import ATTEMPTS, HEALTHY, WAYS, Way
from tests.support import Stage

GROUPS = sorted({way.group for way in WAYS.values()})


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("broker", "group"), [*(("filesystem", group) for group in GROUPS), ("amqp", "tearing")], indirect=["broker"]
)
def test_a_handler_hurts_only_its_own_attempt(stage: Stage, group: str) -> None:
    names = sorted(name for name, way in WAYS.items() if way.group == group)
    stage.home.write("evil.py", Path(misbehaving.__file__).read_text())
    service = stage.start("evil")
    stage.publish("work", *interleaved(names))
    stage.publish("other", *map(str, range(HEALTHY)))
    stage.wait_empty("evil", 120)
    lines = stage.record()
    executed = Counter(line.event for line in lines if line.what == "bad")
    assert executed == dict.fromkeys(names, ATTEMPTS), service.stderr
    good = Counter((line.event, line.attempt) for line in lines if line.what == "good")
    assert good == {(str(number), 1): 2 for number in range(HEALTHY)}, service.stderr  # once in each channel
    dead = {letter["body"]: letter for letter in stage.dead()}
    assert sorted(dead) == names
    wrong = {name: told(letter) for name, letter in dead.items() if not tells(letter, WAYS[name])}
    assert not wrong, service.stderr[-5000:]
    assert stage.command.run("status", "--json").returncode == 0
    assert service.terminate() == 0, service.stderr[-5000:]


def interleaved(names: list[str]) -> list[str]:
    """The bad ones spread among the healthy."""
    events = [str(number) for number in range(HEALTHY)]
    for place, name in enumerate(names):
        events.insert((place + 1) * (HEALTHY // (len(names) + 1)) + place, name)
    return events


def tells(letter: dict[str, Any], way: Way) -> bool:
    """Whether a dead letter tells what has really happened."""
    worker, error = letter["worker"], letter["error"]
    ended = (worker["signal"], worker["exit_code"]) == (way.signal, way.exit_code)
    stack = way.stack is None or way.stack in (error["traceback"] or "")
    named = letter["reason"] == way.reason and error["type"] == way.type and letter["attempts"] == ATTEMPTS
    sized = way.reason != "memory_limit" or worker["rss"] > misbehaving.MEMORY
    return ended and stack and named and sized and len(error["traceback"] or "") <= 16_000


def told(letter: dict[str, Any]) -> dict[str, Any]:
    return {"reason": letter["reason"], "error": letter["error"], "worker": letter["worker"]}
