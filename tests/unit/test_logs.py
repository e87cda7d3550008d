"""Log lines: their form, what is hidden, and that the application's own logging is left alone."""

import json
import logging
import re
from collections.abc import Iterator

import pytest

from busworker import log_fields, logs

log = logging.getLogger("busworker.test")


@pytest.fixture(autouse=True)
def loggers_put_back() -> Iterator[None]:
    """Puts the root logger and ours back afterwards."""
    before = {name: (get(name).handlers[:], get(name).level, get(name).propagate) for name in ("", "busworker")}
    yield
    for name, (handlers, level, propagate) in before.items():
        logger = get(name)
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
    log.disabled = False


def without_pytest() -> None:
    """Takes pytest's own handlers away: they fail on what ours has to bear. They come back after the test."""
    for name in ("", "busworker"):
        get(name).handlers.clear()


def get(name: str) -> logging.Logger:
    return logging.getLogger(name or None)


def test_a_line_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    logs.setup("info", "text", "supervisor email")
    log.info("text")
    log.warning("more")
    log.debug("not this")
    first, second = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO  supervisor email: text", first)
    assert second.endswith(" WARN  supervisor email: more")


def test_a_line_for_machines(capfd: pytest.CaptureFixture[str]) -> None:
    without_pytest()
    logs.setup("debug", "json", "supervisor email")
    log_fields.set_role("worker email.welcome/1")
    log.warning("with \x1b[31m and \udc80 and %s", "amqp://u:secret@h")
    record = json.loads(capfd.readouterr().err)
    assert record["message"] == "with \x1b[31m and \udc80 and amqp://u:***@h"
    assert (record["level"], record["role"]) == ("warning", "worker email.welcome/1")
    assert record["logger"] == "busworker.test"
    assert (record["exception"], record["time"][-1]) == (None, "Z")


def test_nobody_forges_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    logs.setup("info", "text", "worker")
    log.info("a\n2026-01-01T00:00:00.000Z INFO  worker: b\x1b[2J")
    try:
        raise ValueError("first\n2026 second amqp://u:secret@h")
    except ValueError:
        log.exception("failed")
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].endswith(r"a\n2026-01-01T00:00:00.000Z INFO  worker: b\x1b[2J")
    assert all(line.startswith("  ") for line in lines[2:])
    assert lines[-1] == "  2026 second amqp://u:***@h"


def test_arguments_that_do_not_fit_end_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    without_pytest()
    logs.setup("info", "text", "worker")
    log.info("%d", "x")
    assert "Logging error" in capfd.readouterr().err


@pytest.mark.parametrize("format", ["text", "json"])
def test_an_argument_whose_text_can_not_be_had_ends_nothing(format: str, capfd: pytest.CaptureFixture[str]) -> None:
    class HalfMade:
        def __repr__(self) -> str:
            raise AttributeError("it has no name yet")

    without_pytest()
    logs.setup("info", format, "worker")
    log.info("made %s", HalfMade())
    assert "AttributeError: it has no name yet" in capfd.readouterr().err


def test_the_applications_own_logging_is_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    own = logging.NullHandler()
    get("").handlers[:] = [own]
    logs.setup("info", "text", "worker")
    logging.getLogger("shop").warning("theirs")
    log.info("ours")
    assert get("").handlers == [own]
    assert [line.endswith("ours") for line in capfd.readouterr().err.splitlines()] == [True]


def test_without_one_the_application_logs_our_way_and_once(capfd: pytest.CaptureFixture[str]) -> None:
    get("").handlers[:] = []
    logs.setup("info", "text", "worker")
    logs.setup("info", "text", "worker")
    logging.getLogger("shop").info("theirs")
    log.info("ours")
    assert len(capfd.readouterr().err.splitlines()) == 2


def test_loggers_that_an_application_switched_off_come_back(capfd: pytest.CaptureFixture[str]) -> None:
    logs.setup("info", "text", "worker")
    log.disabled = True
    logs.reclaim()
    log.info("ours")
    assert capfd.readouterr().err.endswith("ours\n")
