"""What handlers publish: in order and once with the outcome, not at all without one, and at once if they want."""

from collections.abc import Iterator

import pytest

from busworker.broker.session import Session, open_session
from busworker.message import Delivery, read_envelope
from tests.support import Stage, wait_until
from tests.support.transports import EVERYWHERE

MANY = 3000
APP = f"""
import os, signal
from busworker import Bus, RetryPolicy, Topic
from recording import record

bus = Bus("shop")
noted = Topic("noted", str)

@bus.channel("pool").subscribe(Topic("deed", str), retry=RetryPolicy(2, delays=(0,)), time_limit=60)
def handle(deed, message):
    receipts = [bus.publish(noted, f"{{deed}} {{n}}") for n in range({MANY} if deed == "many" else 3)]
    named = bus.publish(noted, f"{{deed}} named", id=f"named-{{deed}}", correlation_id="own")
    for receipt in (*receipts[:3], named):
        record(deed, receipt.id, message.attempt)
    if deed == "at-once":
        bus.publish(noted, "at once, and waited for", immediately=True).wait()
    if deed == "raises" or deed == "at-once" or (deed == "twice" and message.attempt == 1):
        raise ValueError(deed)
    if deed == "exits":
        os._exit(3)
    if deed == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def session(stage: Stage) -> Iterator[Session]:
    """Sees what is published to `noted`."""
    session = open_session(stage.home.broker or f"filesystem://{stage.home.state}/busworker/bus")
    session.declare()
    session.declare_work("noted", "other", "sink")
    yield session
    session.close()


def noted(session: Session) -> list[Delivery]:
    return list(session.browse("busworker.noted/other.sink", newest_first=False))


@EVERYWHERE
def test_what_a_handler_publishes_shares_the_fate_of_its_attempt(stage: Stage, session: Session) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    done = stage.command.run("publish", "deed", '"many"', "--correlation-id", "c-1")
    assert done.returncode == 0, done.stderr
    stage.publish("deed", "raises", "exits", "killed", "at-once", "twice")
    wait_until(lambda: len(stage.record()) == 4 * 11, 30, lambda: f"11 attempts; {len(stage.record())}")
    stage.wait_empty("shop")
    seen = noted(session)
    texts = [delivery.body.decode().strip('"') for delivery in seen]
    assert [text for text in texts if text.startswith("many")] == [*(f"many {n}" for n in range(MANY)), "many named"]
    assert [text for text in texts if text.startswith("twice")] == ["twice 0", "twice 1", "twice 2", "twice named"]
    rest = {text for text in texts if not text.startswith(("many", "twice"))}
    assert rest == {"at once, and waited for"}
    assert texts.count("at once, and waited for") == 2, "in each of its two attempts"
    ids = {text: str(delivery.properties["message_id"]) for text, delivery in zip(texts, seen, strict=True)}
    assert len(set(ids.values())) == len(ids)
    for deed in ("many", "twice"):
        attempts = {line.attempt for line in stage.record(deed)}
        for attempt in attempts:  # the ids of the repeat are those of the attempt that failed
            said = [line.event for line in stage.record(deed) if line.attempt == attempt]
            assert said == [ids[f"{deed} {n}"] for n in range(3)] + [f"named-{deed}"]
    correlated = {text: read_envelope(delivery).correlation_id for text, delivery in zip(texts, seen, strict=True)}
    assert {correlated[f"many {n}"] for n in range(MANY)} == {"c-1"}
    assert (correlated["many named"], correlated["twice 0"]) == ("own", None)
    assert sorted(letter["body"] for letter in stage.dead()) == ["at-once", "exits", "killed", "raises"]
    assert service.terminate() == 0
