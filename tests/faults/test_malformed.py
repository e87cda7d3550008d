"""Messages that nobody can read: none is executed, none is lost, and no process or log suffers."""

import base64
import gzip
import pickle
from typing import Any

from amqp.basic_message import Message

from tests.support import Stage
from tests.support.transports import EVERYWHERE

APP = """
from busworker import Bus, RetryPolicy, Topic
from recording import record

bus = Bus("shop")

@bus.channel("pool", processes=2).subscribe(Topic("work", dict[str, int]), retry=RetryPolicy(3, delays=(0,)))
def handle(event, message):
    record("good", str(event["n"]), message.attempt)
"""
JSON = "application/json"
MALFORMED: dict[str, tuple[bytes, dict[str, Any]]] = {
    "empty": (b"", {}),
    "of another shape": (b'{"a": "b"}', {}),
    "a list": (b"[1, 2]", {}),
    "null": (b"null", {}),
    "no UTF-8": (b"\xff\xfe\x00", {}),
    "two documents": (b'{"n": 1} {"n": 2}', {}),
    "no number of JSON": (b'{"n": NaN}', {}),
    "deep": (b"[" * 200_000, {}),
    "five megabytes": (b"9" * 5_000_000, {}),
    "a pickle": (pickle.dumps({"n": 1}), {"content_type": "application/x-python-serialize"}),
    "packed": (gzip.compress(b'{"n": 1}'), {"content_encoding": "gzip"}),
}
LOGGED = 2048
"""Bytes of the log that one may take."""


@EVERYWHERE
def test_what_cannot_be_read_is_a_dead_letter_with_its_bytes_and_costs_nothing_else(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    processes = {member.pid for member in service.tree()}
    logged = len(service.stderr)
    with stage.kombu() as channel:
        for number, (name, (body, properties)) in enumerate(MALFORMED.items()):
            send(
                channel,
                body,
                {"content_type": JSON, "message_id": name, "application_headers": {"from": name}} | properties,
            )
            for healthy in range(5):
                send(channel, b'{"n": %d}' % (5 * number + healthy), {"content_type": JSON})
    stage.wait_recorded(5 * len(MALFORMED))
    stage.wait_empty("shop")
    assert sorted((int(line.event), line.attempt) for line in stage.record("good")) == [
        (number, 1) for number in range(5 * len(MALFORMED))
    ]
    letters = {letter["id"]: letter for letter in stage.dead()}
    assert {name: (letter["reason"], letter["attempts"]) for name, letter in letters.items()} == dict.fromkeys(
        MALFORMED, ("invalid", 0)
    )
    assert {name: letter["headers"]["from"] for name, letter in letters.items()} == {name: name for name in MALFORMED}
    assert exported(stage) == {name: body for name, (body, _) in MALFORMED.items()}
    assert len(service.stderr) - logged < LOGGED * len(MALFORMED)
    assert {member.pid for member in service.tree()} == processes
    assert service.terminate() == 0


def send(channel: Any, body: bytes, properties: dict[str, Any]) -> None:
    channel.basic_publish(Message(body, **properties), "busworker", "work")


def exported(stage: Stage) -> dict[str, bytes]:
    """The bodies of the dead letters, by message id."""
    return {letter["id"]: base64.b64decode(letter["body_base64"]) for letter in stage.exported()}
