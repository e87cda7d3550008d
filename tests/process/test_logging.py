"""The log of a running service: whose record each is, what is counted, and that no body is in it."""

import json

from tests.support import Stage, wait_until

SECRET = "k3lvin-7f1a"
APP = r"""
import asyncio, logging, logging.config, os
from typing import Literal
from busworker import Bus, RetryPolicy, Topic
from recording import record, wait_for

OWN
log = logging.getLogger("shop.orders")
bus = Bus("shop")

@bus.channel("crowd", concurrency=4).subscribe(Topic("together", str), retry=RetryPolicy(1))
async def handle_together(event, message):
    record("begun", event)
    while not os.path.exists("gate"):
        await asyncio.sleep(0.01)
    log.info("async %s", event)
    await asyncio.to_thread(log.info, "thread %s", event)

plain = bus.channel("plain")

@plain.subscribe(Topic("work", dict[str, str]), retry=RetryPolicy(2, delays=(0,)))
def work(event):
    log.info("works")
    match event["do"]:
        case "fail": raise RuntimeError("as told")
        case "crash": os._exit(3)
        case "reject": raise __import__("busworker").Reject("never")

@plain.subscribe(Topic("kind", Literal["good"]), retry=RetryPolicy(2, delays=(0,)))
def kind(event):
    record("impossible")
"""
OWN = r"""
logging.config.dictConfig({
    "version": 1,
    "filters": {"bus": {"()": "busworker.LogFields"}},
    "formatters": {
        "own": {"format": "%(service)s.%(channel)s/%(slot)s %(topic)s %(message_id)s %(attempt)s %(message)s"}
    },
    "handlers": {"own": {
        "class": "logging.FileHandler", "filename": "own.log", "filters": ["bus"], "formatter": "own"
    }},
    "root": {"handlers": ["own"], "level": "INFO"},
})
"""
FAILURES = 30


def test_each_record_says_whose_it_is_and_none_has_a_body(stage: Stage) -> None:
    stage.home.write("shop.py", APP.replace("OWN", ""))
    service = stage.start("shop", "--log-format", "json")
    stage.publish("together", "a", "b", "c")
    stage.publish("work", *({"do": do, "secret": SECRET} for do in ("reject", "crash")))
    stage.publish("work", *({"do": "fail", "secret": SECRET} for _ in range(FAILURES)))
    stage.publish("kind", SECRET)
    stage.wait_recorded(3)
    stage.touch("gate")
    letters = wait_until(lambda: len(found := stage.dead()) == FAILURES + 3 and found, 30, lambda: service.stderr)
    stage.wait_empty("shop")
    assert service.terminate() == 0
    assert SECRET not in service.stderr
    assert SECRET in json.dumps(letters)

    records = [json.loads(line) for line in service.stderr.splitlines()]
    assert len({tuple(record) for record in records}) == 1, "always the same keys"
    assert {record["service"] for record in records} == {"shop"}
    ids = {letter["id"]: letter for letter in letters}
    handlers = [record for record in records if record["logger"] == "shop.orders"]
    crowd = [record for record in handlers if record["channel"] == "crowd"]
    assert sorted(record["message"].split()[0] for record in crowd) == ["async"] * 3 + ["thread"] * 3
    by_event = {(record["message"].split()[1], record["message_id"]) for record in crowd}
    assert len(by_event) == 3, "two records of each event, and its own message"
    assert {(record["topic"], record["attempt"], record["slot"]) for record in crowd} == {("together", 1, 1)}
    works = [record for record in handlers if record["channel"] == "plain"]
    assert {(record["message_id"], record["attempt"]) for record in works} == {
        (id, attempt)
        for id, letter in ids.items()
        if letter["topic"] == "work"
        for attempt in range(1, letter["attempts"] + 1)
    }

    dead = {event: [one for one in records if one["event"] == event] for event in ("message_dead", "attempt_failed")}
    assert {one["reason"] for one in dead["message_dead"]} == {"rejected", "crash", "exception", "invalid"}
    for event in dead:
        counted = [one for one in dead[event] if one["reason"] == "exception"]
        assert len(counted) < FAILURES
        assert sum(one["repeated"] or 1 for one in counted) == FAILURES, counted
    failed = dead["attempt_failed"][0]
    assert (failed["topic"], failed["attempt"], failed["level"]) == ("work", 1, "warning")
    assert failed["message_id"] in ids
    assert any(one["duration"] is not None and 0 <= one["duration"] < 60 for one in dead["attempt_failed"])
    (invalid,) = [one for one in dead["message_dead"] if one["reason"] == "invalid"]
    assert invalid["message"].endswith("the body doesn't fit its topic: Invalid enum value …)")
    died = [one for one in records if one["event"] == "worker_died"]
    assert [(one["channel"], one["slot"], one["reason"]) for one in died] == [("plain", 1, "exit code 3")] * 2
    assert {one["message_id"] for one in died} == {id for id, one in ids.items() if one["reason"] == "crash"}
    told = [one["event"] for one in records]
    for event in ("consumer_ready", "worker_ready", "service_state", "service_draining", "service_stopped"):
        assert event in told
    assert told[-1] == "service_stopped"


def test_an_applications_own_logging_is_its_own_and_can_have_the_fields(stage: Stage) -> None:
    stage.home.write("shop.py", APP.replace("OWN", OWN))
    service = stage.start("shop")
    stage.publish("work", {"do": "fail"})
    (letter,) = wait_until(stage.dead, 30, lambda: service.stderr)
    assert service.terminate() == 0
    lines = (stage.home.path / "own.log").read_text().splitlines()
    assert [line for line in lines if line.endswith("works")] == [
        f"shop.plain/1 work {letter['id']} {attempt} works" for attempt in (1, 2)
    ]
    assert "works" not in service.stderr
    assert f"work/shop.plain message {letter['id']} attempt 1/2: again in 0 s (RuntimeError: as told)" in service.stderr
