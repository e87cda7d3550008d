"""What start hooks publish: their worker is up before its consumer has a connection."""

from tests.support import Stage

OPENING = """
import os
from busworker import Bus, PublishFailed, Topic
from recording import record

opened = Topic("till.opened", int)
bus = Bus("till", publish_deadline=float(os.environ.get("DEADLINE", "10")))

@bus.on_worker_start
def plain():
    try:
        bus.publish(opened, 1).wait()
    except PublishFailed as error:
        record(str(error).replace(" ", "_"))
    record("plain")

@bus.on_worker_start
async def later():
    receipt = bus.publish(opened, 2)
    record(receipt.state)

@bus.channel("audit").subscribe(opened)
def note(event, message):
    record("note", event, message.attempt)
"""


def test_a_start_hook_publishes_before_its_consumer_is_connected(stage: Stage) -> None:
    stage.home.write("till.py", OPENING)
    service = stage.start("till")
    stage.wait_recorded(4)
    stage.wait_empty("till")
    assert [line.what for line in stage.record("plain", "confirmed", "failed", "unknown")] == ["plain", "confirmed"]
    assert [line.event for line in stage.record("note")] == ["1", "2"]
    assert service.terminate() == 0


def test_what_a_start_hook_publishes_fails_at_the_deadline_if_there_is_no_broker(stage: Stage) -> None:
    stage.home.write("till.py", OPENING)
    env = {"BUSWORKER_BROKER": "amqp://127.0.0.1:1", "DEADLINE": "0.3"}
    service = stage.command.start("start", "till", env=env)
    service.wait_log("worker till.audit/1 ready")
    why, plain, state = stage.record()
    assert "amqp://127.0.0.1:1_can't_be_used" in why.what
    assert (plain.what, state.what) == ("plain", "failed")
    assert service.exit_code is None
    assert service.terminate() == 0
