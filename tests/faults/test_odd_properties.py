"""Properties and headers that no client of ours would send: RabbitMQ passes them on, and nothing may stop at them."""

import base64
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from busworker.broker.session import open_session
from busworker.message import Outgoing
from tests.support import Stage
from tests.support.transports import on

APP = """
from busworker import Bus, RetryPolicy, Topic
from recording import record

bus = Bus("shop")

@bus.channel("pool", processes=2).subscribe(Topic("work", int), retry=RetryPolicy(2, delays=(0,)))
def handle(event, message):
    record("good", str(event), message.attempt)
    if message.attempt == 1:
        raise ValueError(message.headers)
"""
NO_UTF8 = b"\xff\xfe"
UNREADABLE: dict[str, Any] = {
    name: {name: NO_UTF8}
    for name in ("message_id", "correlation_id", "content_type", "content_encoding", "reply_to", "type", "app_id")
}
DEEP: Any = "bottom"
for _ in range(100):
    DEEP = {"a": DEEP}
ODD: dict[str, dict[str, Any]] = {
    "every type": {
        "b": True, "i": -1, "l": 2**40, "d": 0.5, "D": Decimal("2.5"), "S": "text", "x": NO_UTF8, "V": None,
        "T": datetime(2026, 1, 1, tzinfo=UTC), "F": {"inner": [1, "two", None]}, "A": [True, {"a": 1}],
    },
    "a moment beyond the calendar": {"T": 2**64 - 1},
    "a name that is no UTF-8": {"h\udcff": 1},
    "an empty name": {"": 1},
    "large": {"h": "x" * 100_000},
    "many": {f"h{number}": number for number in range(2000)},
    "ours, and wrong": {"x-busworker-attempt": "seven", "x-busworker-replay": -1, "x-busworker-topic": 5},
}  # fmt: skip
"""Headers of messages that are handled, and retried once, all the same."""


def outgoing(number: int, properties: dict[str, Any], headers: dict[str, Any]) -> Outgoing:
    return Outgoing("busworker", "work", b"%d" % number, {"delivery_mode": 2} | properties, headers)


@on("amqp", "classic")
def test_odd_properties_stop_nothing(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    processes = {member.pid for member in service.tree()}
    odd = [
        outgoing(number, {"timestamp": 2**64 - 1, "priority": 255}, headers)
        for number, headers in enumerate(ODD.values())
    ]
    unreadable = [outgoing(100 + number, properties, {}) for number, properties in enumerate(UNREADABLE.values())]
    unreadable.append(outgoing(200, {"message_id": "deep"}, {"deep": DEEP}))
    session = open_session(stage.home.broker)
    session.publish([one for pair in zip(odd, unreadable, strict=False) for one in pair])
    session.publish(unreadable[len(odd) :])
    session.close()
    stage.wait_recorded(2 * len(odd))
    stage.wait_empty("shop")
    assert sorted((int(line.event), line.attempt) for line in stage.record("good")) == [
        (number, attempt) for number in range(len(odd)) for attempt in (1, 2)
    ]
    letters = stage.exported()
    assert {base64.b64decode(letter["body_base64"]) for letter in letters} == {one.body for one in unreadable}
    assert {(letter["reason"], letter["attempts"]) for letter in letters} == {("invalid", 0)}
    said = {json.loads(base64.b64decode(letter["body_base64"])): letter["error"]["message"] for letter in letters}
    assert said[100] == "its message_id isn't UTF-8"
    assert "64 deep" in said[200]
    assert {member.pid for member in service.tree()} == processes
    assert service.terminate() == 0
