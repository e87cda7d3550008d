"""The application under chaos. Runs on its own, as `shop.py` in the home: nothing here may be imported from the tests.

Each handler writes a line when it begins and one when it ends, by one write each, so that a line is whole whatever
kills the process. What it does to itself is drawn from the seed, the channel and the order, so that it is known.
"""

import contextlib
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from busworker import Bus, Message, RetryPolicy, Topic

TIME_LIMIT, KILL_AFTER = 1.5, 0.5
POLICY = RetryPolicy(max_attempts=5, delays=(0, 0, 1, 0))
SEED = os.environ["CHAOS_SEED"]
HISTORY = Path("history").absolute()
DEEDS = (
    ("poison", 0.004),
    ("lethal", 0.002),
    ("raise", 0.01),
    ("crash", 0.004),
    ("hang", 0.0006),
    ("stubborn", 0.0006),
    ("slow", 0.01),
)
"""How often each is done: the first two in every attempt, the others in the first attempt only."""


@dataclass(frozen=True)
class Order:
    name: str


bus = Bus("shop")
placed, relayed = Topic("order.placed", Order), Topic("order.relayed", Order)


def deed_of(channel: str, name: str, attempt: int) -> str:
    draw = random.Random(f"{SEED} {channel} {name}").random()
    for deed, share in DEEDS:
        if draw < share:
            return deed if attempt == 1 or deed in ("poison", "lethal") else "work"
        draw -= share
    return "work"


def note(kind: str, channel: str, event: Order, message: Message, what: str) -> None:
    line = f"{kind} {channel} {event.name} {message.attempt} {os.getpid()} {time.monotonic():.6f} {what}\n"
    descriptor = os.open(HISTORY, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def do(deed: str) -> None:
    match deed:
        case "poison" | "raise":
            raise ValueError(deed)
        case "lethal":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            os._exit(3)
        case "hang":
            time.sleep(600)
        case "stubborn":
            with contextlib.suppress(BaseException):
                time.sleep(600)
            time.sleep(600)
        case "slow":
            time.sleep(random.uniform(0.05, 0.2))
        case _:
            time.sleep(random.uniform(0.001, 0.003))


def handle(channel: str, event: Order, message: Message) -> None:
    deed = deed_of(channel, event.name, message.attempt)
    note("B", channel, event, message, deed)
    try:
        do(deed)
    except BaseException as error:
        note("E", channel, event, message, type(error).__name__)
        raise
    if channel == "relay":
        bus.publish(relayed, event)
    note("E", channel, event, message, "returned")


@bus.channel("audit", processes=2).subscribe(placed, retry=POLICY, time_limit=TIME_LIMIT, kill_after=KILL_AFTER)
def audit(event: Order, message: Message) -> None:
    handle("audit", event, message)


@bus.channel("relay", processes=2).subscribe(placed, retry=POLICY, time_limit=TIME_LIMIT, kill_after=KILL_AFTER)
def relay(event: Order, message: Message) -> None:
    handle("relay", event, message)


@bus.channel("tail", processes=2).subscribe(relayed, retry=POLICY, time_limit=TIME_LIMIT, kill_after=KILL_AFTER)
def tail(event: Order, message: Message) -> None:
    handle("tail", event, message)
