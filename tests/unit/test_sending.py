"""What becomes of the messages of one batch, by the broker's answer to each."""

import logging

import pytest

from busworker.errors import AlreadyStored, BrokerUnavailable, BusworkerError, ConfigurationError, EncodeError
from busworker.message import Outgoing
from busworker.receipt import Receipt
from busworker.sending import Pending, Sender


def batch(count: int) -> list[Pending]:
    return [
        Pending(Outgoing("busworker", "a", b"1", {"message_id": str(n)}, {}), Receipt(str(n)), 1e9)
        for n in range(count)
    ]


def test_each_ends_with_its_own_cause_and_what_may_pass_is_left(caplog: pytest.LogCaptureFixture) -> None:
    sender, messages = Sender("amqp://127.0.0.1:1", 10.0, None), batch(6)
    refused, encode = ConfigurationError("refused for good"), EncodeError("too long")
    answers: list[BusworkerError | None] = [
        None, BrokerUnavailable("silent"), encode, AlreadyStored("known"), refused, refused,
    ]  # fmt: skip
    with caplog.at_level(logging.ERROR):
        left = sender._judged(messages, answers)
    assert left == [messages[1]]
    receipts = [one.receipt for one in messages]
    assert [receipt.state for receipt in receipts] == [
        "confirmed", "pending", "failed", "confirmed", "failed", "failed",
    ]  # fmt: skip
    assert [receipt.error for receipt in receipts] == [None, None, encode, None, refused, refused]
    assert [receipt.duplicate for receipt in receipts] == [False, False, False, True, False, False]
    assert [record.getMessage() for record in caplog.records] == [
        "1 message(s) could not be published: too long",
        "2 message(s) could not be published: refused for good",
    ]
