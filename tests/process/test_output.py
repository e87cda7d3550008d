"""What handlers write: each line in the log under its worker's name, and nobody is held up by it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.support import Stage, wait_until

APP = r"""
import logging, os, subprocess, sys
from busworker import Bus, RetryPolicy, Topic
from recording import record

bus = Bus("shop")
loud, quiet = Topic("loud", str), Topic("quiet", int)

@bus.channel("loud").subscribe(loud, retry=RetryPolicy(1))
def write(what):
    match what:
        case "lines":
            print("a line")
            print("another", file=sys.stderr)
            subprocess.run(["echo", "from a child"])
            logging.getLogger("app").warning("by logging")
        case "forged":
            print("fine\r2026-01-01T00:00:00.000Z ERROR supervisor shop: \x1b[2Jforged")
        case "partial":
            sys.stdout.write("no end of line")
            sys.stdout.flush()
            os._exit(1)
        case "long":
            os.write(1, b"x" * 100_000 + b"\n")
        case "flood":
            while True:
                os.write(1, b"flood\n" * 1000)
    record("done", what)

@bus.channel("quiet", processes=2).subscribe(quiet, retry=RetryPolicy(1))
def note(number):
    record("quiet", str(number))
"""


@pytest.fixture
def shop(stage: Stage) -> Stage:
    stage.home.write("shop.py", APP)
    return stage


def test_each_line_is_in_the_log_under_the_name_of_its_worker(shop: Stage) -> None:
    service = shop.start("shop", "--log-level", "warning")
    shop.publish("loud", "lines", "forged", "partial", "long")
    shop.wait_empty("shop")
    lines = [line.partition(" ")[2] for line in service.stderr.splitlines()]
    mine = "worker shop.loud/1: "
    for text in ("a line", "another", "from a child", "no end of line"):
        assert f"INFO  {mine}{text}" in lines
    assert any(line.startswith(f"WARN  {mine}by logging [") and line.endswith(" attempt 1]") for line in lines), (
        "what goes through logging keeps its level, and tells its message"
    )
    assert f"INFO  {mine}fine\\r2026-01-01T00:00:00.000Z ERROR supervisor shop: \\x1b[2Jforged" in lines
    (long,) = [line for line in lines if "xxxx" in line]
    assert long.endswith("xxx … 91808 bytes cut")
    assert service.stdout == ""


def test_in_a_log_for_machines_each_line_is_a_document(shop: Stage) -> None:
    service = shop.start("shop", "--log-format", "json")
    shop.publish("loud", "lines", "forged", "partial")
    shop.wait_empty("shop")
    records = [json.loads(line) for line in service.stderr.splitlines()]
    found = {one["message"] for one in records if one["logger"] == "busworker.output"}
    assert {"a line", "another", "from a child", "no end of line"} <= found
    assert {one["role"] for one in records if one["logger"] == "busworker.output"} == {"worker shop.loud/1"}


def test_a_handler_that_writes_without_end_holds_up_nobody(shop: Stage) -> None:
    service = shop.start("shop")
    shop.publish("loud", "flood")
    service.wait_log(": flood")
    shop.publish("quiet", *range(300))
    wait_until(lambda: len(shop.record("quiet")) == 300, 20, "all that is quiet")
    assert shop.status("shop")["state"] == "running"
    service.signal(signal.SIGQUIT)
    assert service.wait(10) == 75


def test_a_log_that_nobody_reads_holds_up_nobody(shop: Stage) -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "busworker", "start", "shop", "--log-level", "debug"],
        cwd=shop.home.path,
        env=shop.home.env,
        stderr=writing,
        stdout=writing,
        start_new_session=True,
    )
    os.close(writing)
    try:
        wait_until(lambda: shop.status("shop").get("state") == "running", 30, "the service")
        shop.publish("loud", *["long"] * 40)  # many times what the pipe holds
        shop.publish("quiet", *range(300))
        wait_until(lambda: len(shop.record("quiet")) == 300, 30, "all that is quiet")
        wait_until(lambda: len(shop.record("done")) == 40, 30, "those that write, too")
        read = os.read(reading, 1 << 20)
        shop.publish("loud", "lines")
        read += until(reading, b"from a child")
        assert b"log lines were lost: nobody read them" in read
        process.terminate()
        assert process.wait(30) == 0
        counted = Counter(line.event for line in shop.record("quiet"))
        assert counted == dict.fromkeys(map(str, range(300)), 1)
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def until(descriptor: int, text: bytes) -> bytes:
    """All that is read until that text comes."""
    read, end = b"", time.monotonic() + 20
    while text not in read:
        assert time.monotonic() < end, read[-1000:]
        read += os.read(descriptor, 1 << 16)
    return read
