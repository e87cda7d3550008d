"""What log records tell beside their text: always the same keys, of the process, of the attempt and of the event."""

import asyncio
import contextvars
import json
import logging
import logging.config
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

import busworker
from busworker import fault_log, log_fields, logs
from busworker.log_fields import event
from busworker.message import Message
from busworker.repeats import BURST

KEYS = [
    "time", "level", "event", "service", "channel", "slot", "topic", "message_id", "attempt", "duration", "reason",
    "repeated", "role", "pid", "logger", "message", "exception",
]  # fmt: skip
log = logging.getLogger("busworker.test")
app = logging.getLogger("shop.orders")


@pytest.fixture(autouse=True)
def loggers_put_back() -> Iterator[None]:
    """Puts the root logger, ours and the application's back afterwards."""
    log.disabled = app.disabled = False  # another test's dictConfig switches off what there is
    names = (None, "busworker", "shop")
    before = [(one := logging.getLogger(name), one.handlers[:], one.level, one.propagate) for name in names]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
    log_fields.set_role("busworker")


def message(id: str, attempt: int = 1) -> Message:
    published_at = datetime(2026, 11, 26, tzinfo=UTC)
    return Message(id, "order.placed", "shop.pool", attempt, 5, published_at, None, {}, b"1")


def setup(form: str, role: str) -> None:
    """Logs as a process of that role does, without pytest's own handlers, which come back after the test."""
    for name in (None, "busworker"):
        logging.getLogger(name).handlers.clear()
    logs.setup("info", form, role)


def records(capfd: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_every_record_has_the_same_keys(capfd: pytest.CaptureFixture[str]) -> None:
    setup("json", "worker shop.pool/2")
    log.info("plain")
    log.warning("told", extra=event("attempt_failed", channel="other", slot=7, duration=0.5, reason="crash", fault="x"))
    app.error("of the application", extra={"channel": "#general", "event": "order_paid", "role": "admin"})
    logs.repeat("worker shop.mails/3", "printed")
    log_fields.set_role("supervisor shop")
    log.info("another")
    plain, told, own, printed, another = records(capfd)
    assert [list(one) for one in (plain, told, own, printed, another)] == [KEYS] * 5
    assert (plain["event"], plain["service"], plain["channel"], plain["slot"]) == ("log", "shop", "pool", 2)
    assert (told["event"], told["channel"], told["slot"], told["reason"]) == ("attempt_failed", "other", 7, "crash")
    assert (told["duration"], told["message_id"], told["service"]) == (0.5, None, "shop")
    assert (own["event"], own["channel"], own["role"]) == ("order_paid", "pool", "worker shop.pool/2")
    assert (printed["event"], printed["role"]) == ("output", "worker shop.mails/3")
    assert (printed["channel"], printed["slot"]) == ("mails", 3)
    assert (another["service"], another["channel"], another["slot"]) == ("shop", None, None)


@pytest.mark.parametrize("form", ["json", "text"])
def test_records_belong_to_the_attempt_as_far_as_its_context_reaches(
    capfd: pytest.CaptureFixture[str], form: str
) -> None:
    setup(form, "worker shop.pool/1")

    async def attempt(number: int) -> None:
        log_fields.message.set(message(f"m{number}", number))
        await asyncio.sleep(0)
        app.info("handled %d", number)
        await asyncio.to_thread(app.info, "in a thread %d", number)

    async def crowd() -> None:
        await asyncio.gather(*(attempt(number) for number in range(1, 4)))

    asyncio.run(crowd())
    app.info("outside")
    if form == "json":
        *found, outside = [(one["message_id"], one["topic"], one["attempt"]) for one in records(capfd)]
        assert sorted(found, key=str) == [(f"m{number}", "order.placed", number) for number in (1, 1, 2, 2, 3, 3)]
        assert outside == (None, None, None)
    else:
        *lines, last = capfd.readouterr().err.splitlines()
        assert sum(line.endswith("handled 2 [m2 attempt 2]") for line in lines) == 1
        assert last.endswith("worker shop.pool/1: outside")


def test_an_applications_own_logging_gets_the_fields_by_a_filter(capsys: pytest.CaptureFixture[str]) -> None:
    log_fields.set_role("worker shop.pool/1")
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"busworker": {"()": "busworker.LogFields"}},
            "formatters": {"own": {"format": "%(service)s %(channel)s %(slot)s %(message_id)s %(event)s %(message)s"}},
            "handlers": {
                "own": {
                    "class": "logging.StreamHandler",
                    "stream": "ext://sys.stdout",
                    "filters": ["busworker"],
                    "formatter": "own",
                }
            },
            "loggers": {"shop": {"handlers": ["own"], "level": "INFO", "propagate": False}},
        }
    )
    app.info("before")
    context = contextvars.copy_context()
    context.run(log_fields.message.set, message("m1"))
    context.run(app.info, "within", extra={"channel": "their own"})
    assert capsys.readouterr().out.splitlines() == [
        "shop pool 1 None log before",
        "shop their own 1 m1 log within",
    ]
    assert busworker.LogFields is log_fields.LogFields


def test_the_same_fault_is_told_some_times_and_then_counted(capfd: pytest.CaptureFixture[str]) -> None:
    setup("json", "consumer shop.pool")
    counting = fault_log.logger("busworker.test")
    for number in range(BURST + 5):
        counting.warning("message m%d: %s", number, "boom", extra=event("attempt_failed", slot=1, fault="boom"))
        counting.info("no fault %d", number, extra=event("message_done", fault="boom"))
        app.warning("the application's own")
    counting.warning("another", extra=event("attempt_failed", fault="crash"))
    found = records(capfd)
    assert sum(one["event"] == "message_done" for one in found) == BURST + 5
    assert sum(one["logger"] == "shop.orders" for one in found) == BURST + 5
    assert [one["message"] for one in found if one["event"] == "attempt_failed"] == [
        *(f"message m{number}: boom" for number in range(BURST)),
        "another",
    ]
    fault_log.tell_rest()
    fault_log.tell_rest()
    (rest,) = records(capfd)
    assert rest["message"] == f"message m{BURST + 4}: boom (the last of 5 like it in 0 s)"
    assert (rest["event"], rest["repeated"], rest["level"], rest["slot"]) == ("attempt_failed", 5, "warning", 1)


@pytest.mark.parametrize("theirs", ["text", None, {"event": {1}, "role": 5, "message_id": "fake"}])
def test_what_an_application_has_under_our_name_is_none_of_ours(theirs: object) -> None:
    record = logging.makeLogRecord({"busworker": theirs})
    assert log_fields.told(record) == {}
    assert log_fields.known(record)["message_id"] is None
