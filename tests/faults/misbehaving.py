"""An application whose handlers misbehave, each in a way of its own, beside others that check where they run.

It is copied into a test's home and started there; the test reads from here how each way must end.
"""

import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import itertools
import logging
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from busworker import Bus, Message, Retry, RetryPolicy, Topic

ATTEMPTS = 2
HEALTHY = 300
MEMORY = 200_000_000


class Way(NamedTuple):
    """A way to misbehave: what it does, and what the dead letter must tell."""

    do: Callable[[Message], object]
    group: str
    reason: str
    type: str
    signal: str | None = None
    exit_code: int | None = None
    stack: str | None = None


WAYS: dict[str, Way] = {}


def way(
    group: str, reason: str, type: str, *, ended: str | int | None = None, stack: str | None = None
) -> Callable[[Callable[[Message], object]], Callable[[Message], object]]:
    """Names a way by its function. `stack` must be in the dead letter's traceback."""

    def register(do: Callable[[Message], object]) -> Callable[[Message], object]:
        name = do.__name__.strip("_")
        killed = "SIGKILL" if reason in ("time_limit", "memory_limit") and stack else None
        code = ended if isinstance(ended, int) else None
        WAYS[name] = Way(do, group, reason, type, ended if isinstance(ended, str) else killed, code, stack)
        return do

    return register


# What is raised


@way("raising", "exception", "ValueError", stack="as told")
def raises(_: Message) -> None:
    raise ValueError("as told")


@way("raising", "exception", "SystemExit")
def exits(_: Message) -> None:
    sys.exit(0)


@way("raising", "exception", "KeyboardInterrupt")
def interrupts_itself(_: Message) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.9)


@way("raising", "exception", "GeneratorExit")
def raises_generator_exit(_: Message) -> None:
    raise GeneratorExit


@way("raising", "exception", "CancelledError")
def raises_cancelled(_: Message) -> None:
    raise asyncio.CancelledError


@way("raising", "exception", "StopIteration")
def raises_stop_iteration(_: Message) -> None:
    next(iter(()))


@way("raising", "exception", "Retry")
def always_retries(_: Message) -> None:
    raise Retry("once more", after=0)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")

    __repr__ = __str__


@way("raising", "exception", "Unspeakable")
def raises_what_has_no_text(_: Message) -> None:
    raise Unspeakable


class Faceless(Exception):
    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise SystemExit("no class")


@way("raising", "exception", "Faceless")
def raises_what_has_no_class(_: Message) -> None:
    raise Faceless


class Nameless(type):
    @property
    def __name__(cls) -> str:
        raise KeyboardInterrupt


@way("raising", "exception", "Odd")
def raises_what_has_no_name(_: Message) -> None:
    raise Nameless("Odd", (Exception,), {})()


@way("raising", "exception", "ValueError")
def raises_a_huge_text(_: Message) -> None:
    raise ValueError("x" * 20_000_000)


@way("raising", "exception", "ValueError", stack="\\udc80")
def raises_what_is_no_text(_: Message) -> None:
    raise ValueError("\udc80\x00\x1b[2J")


class Unpicklable(Exception):
    def __init__(self, lock: object, _: object) -> None:
        super().__init__("unpicklable")
        self.lock = lock


@way("raising", "exception", "Unpicklable")
def raises_what_cannot_be_pickled(_: Message) -> None:
    raise Unpicklable(threading.Lock(), lambda: None)


@way("raising", "exception", "ValueError", stack="direct cause")
def raises_a_long_chain(_: Message) -> None:
    error: Exception = KeyError("first")
    for number in range(200):
        try:
            raise ValueError(f"number {number}") from error
        except ValueError as raised:
            error = raised
    raise error


@way("raising", "exception", "ExceptionGroup", stack="the second of two")
def raises_a_group(_: Message) -> None:
    raise ExceptionGroup("both", [ValueError("the first of two"), OSError("the second of two")])


@way("raising", "exception", "RecursionError")
def recurses(message: Message) -> None:
    recurses(message)


@way("raising", "exception", "MemoryError")
def raises_memory_error(_: Message) -> None:
    bytearray(2**62)


# What ends the process


@way("ending", "crash", "Exit", ended=0)
def leaves_with_0(_: Message) -> None:
    os._exit(0)


@way("ending", "crash", "Exit", ended=3)
def leaves_with_3(_: Message) -> None:
    os._exit(3)


@way("ending", "crash", "SIGKILL", ended="SIGKILL")
def kills_itself(_: Message) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@way("ending", "crash", "SIGTERM", ended="SIGTERM")
def terminates_itself(_: Message) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.9)


@way("ending", "crash", "SIGSEGV", ended="SIGSEGV", stack="in reads_nowhere")
def reads_nowhere(_: Message) -> None:
    ctypes.string_at(0)


@way("ending", "crash", "SIGABRT", ended="SIGABRT", stack="in aborts")
def aborts(_: Message) -> None:
    os.abort()


@way("ending", "crash", "SIGFPE", ended="SIGFPE", stack="in divides")
def divides(_: Message) -> None:
    signal.raise_signal(signal.SIGFPE)


@way("ending", "crash", "SIGSEGV", ended="SIGSEGV", stack="in overflows_the_stack")
def overflows_the_stack(message: Message) -> None:
    message.extend(60)
    deep = iter([1])
    for _n in range(300_000):
        deep = map(abs, deep)
    next(deep)


@way("ending", "crash", "SIGKILL", ended="SIGKILL")
def is_killed_by_its_group(_: Message) -> None:
    os.killpg(0, signal.SIGKILL)


@way("ending", "crash", "Exit", ended=0)
def becomes_another_program(_: Message) -> None:
    os.execv("/bin/true", ["true"])


@way("ending", "crash", "SIGSEGV", ended="SIGSEGV", stack="in crashes_in_a_thread")
def crashes_in_a_thread(_: Message) -> None:
    thread = threading.Thread(target=ctypes.string_at, args=(0,))
    thread.start()
    thread.join()


# What doesn't end


@way("hanging", "time_limit", "TimeLimitExceeded")
def sleeps(_: Message) -> None:
    time.sleep(60)


@way("hanging", "time_limit", "TimeLimitExceeded")
def spins(_: Message) -> None:
    while True:
        pass


@way("hanging", "time_limit", "TimeLimitExceeded", stack="in swallows_everything")
def swallows_everything(_: Message) -> None:
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(60)


@way("hanging", "time_limit", "TimeLimitExceeded", stack="in holds_the_interpreter")
def holds_the_interpreter(_: Message) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # it would end the sleep
    ctypes.PyDLL(None).sleep(60)


@way("hanging", "time_limit", "TimeLimitExceeded")
def matches_for_ever(_: Message) -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")


@way("hanging", "time_limit", "TimeLimitExceeded", stack="in sums_for_ever")
def sums_for_ever(_: Message) -> None:
    sum(itertools.repeat(0))


@way("hanging", "time_limit", "TimeLimitExceeded", stack="in ignores_every_signal")
def ignores_every_signal(_: Message) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGRTMAX}:
        signal.signal(number, signal.SIG_IGN)
    time.sleep(60)


def _hung_without_stack(do: Callable[[Message], object]) -> None:
    """Registers a way that ends at the hard limit and can't tell its stack."""
    WAYS[do.__name__] = Way(do, "hanging", "time_limit", "TimeLimitExceeded", "SIGKILL")


@_hung_without_stack
def blocks_every_signal(_: Message) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(60)


@_hung_without_stack
def stops_itself(_: Message) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)


@_hung_without_stack
def resets_every_signal(_: Message) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    time.sleep(60)


@_hung_without_stack
def becomes_a_sleeper(_: Message) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    os.execv("/bin/sleep", ["sleep", "60"])


@way("hanging", "time_limit", "TimeLimitExceeded", stack="in waits_for_its_lock")
def waits_for_its_lock(_: Message) -> None:
    signal.signal(signal.SIGALRM, lambda *_: None)
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


@way("hanging", "time_limit", "TimeLimitExceeded")
def is_hurried_by_an_alarm_of_its_own(_: Message) -> None:
    signal.alarm(1)
    os.kill(os.getpid(), signal.SIGALRM)
    time.sleep(60)


class Endless(Exception):
    def __str__(self) -> str:
        time.sleep(60)
        return ""


@way("hanging", "time_limit", "TimeLimitExceeded", stack="in __str__")
def raises_what_never_says_why(_: Message) -> None:
    raise Endless


@way("hanging", "memory_limit", "MemoryLimitExceeded", stack="in eats_memory")
def eats_memory(message: Message) -> None:
    message.extend(60)
    eaten = []
    while True:
        eaten.append(b"x" * 1_000_000)
        time.sleep(0.001)


# What is left changed


def changes(do: Callable[[Message], object]) -> Callable[[Message], object]:
    """A way that changes its process, and then fails like any other."""

    def fail(message: Message) -> None:
        do(message)
        raise RuntimeError("after the change")

    fail.__name__ = do.__name__
    return way("changing", "exception", "RuntimeError")(fail)


@changes
def handles_every_signal(_: Message) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, lambda *_: None)


@changes
def blocks_signals(_: Message) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


@changes
def sets_alarms(_: Message) -> None:
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0.05, 0.05)


@changes
def goes_elsewhere(_: Message) -> None:
    folder = f"gone-{os.getpid()}-{time.monotonic_ns()}"
    Path(folder).mkdir()
    os.chdir(folder)
    Path(f"../{folder}").rmdir()


@changes
def masks_everything(_: Message) -> None:
    os.umask(0o777)


@changes
def empties_the_environment(_: Message) -> None:
    os.environ.clear()
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()


@changes
def replaces_the_environment(_: Message) -> None:
    os.environ = {}  # type: ignore[assignment]  # noqa: B003


@changes
def lowers_limits(_: Message) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@changes
def leaves_a_child(_: Message) -> None:
    subprocess.Popen(["sleep", "60"])


@changes
def leaves_a_child_of_its_own_session(_: Message) -> None:
    subprocess.Popen(["sleep", "60"], start_new_session=True)


@changes
def leaves_dead_children(_: Message) -> None:
    for _n in range(10):
        if os.fork() == 0:
            os._exit(0)


@changes
def leaves_a_thread(_: Message) -> None:
    threading.Thread(target=time.sleep, args=(60,)).start()


@changes
def leaves_a_thousand_threads(_: Message) -> None:
    for _n in range(100):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


@changes
def changes_the_interpreter(_: Message) -> None:
    gc.disable()
    sys.settrace(lambda *_: None)
    sys.setrecursionlimit(100)


@changes
def silences_the_log(_: Message) -> None:
    logging.disable(logging.CRITICAL)
    logging.getLogger().handlers.clear()
    faulthandler.disable()


@changes
def closes_its_output(_: Message) -> None:
    os.close(1)
    os.close(2)


@changes
def writes_without_end(_: Message) -> None:
    for _n in range(200):
        os.write(1, b"\x1b[2J" + b"x" * 10_000)
        os.write(2, b"\xff\x00" * 5_000)


@changes
def publishes(_: Message) -> None:
    for number in range(1000):
        bus.publish(nothing, str(number))


# What has been torn


@way("tearing", "crash", "Exit", ended=1)
def closes_everything(_: Message) -> None:
    os.closerange(0, 1000)


@way("tearing", "crash", "Exit", ended=1)
def talks_nonsense(_: Message) -> None:
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.write(descriptor, b"\xff" * 1000)
    time.sleep(0.2)


@way("tearing", "exception", "RuntimeError")
def comes_back_twice(_: Message) -> None:
    os.fork()
    raise RuntimeError("from both")


@way("tearing", "crash", "Exit", ended=7)
def lets_its_child_return(_: Message) -> None:
    if os.fork() == 0:
        return
    os.wait()
    os._exit(7)


@way("tearing", "exception", "RuntimeError")
def breaks_a_lock_of_logging(_: Message) -> None:
    for handler in logging.getLogger("busworker").handlers:
        handler.lock = None
    raise RuntimeError("as told")


# The application

bus = Bus("evil")
work, other, nothing = Topic("work", str), Topic("other", str), Topic("nothing", str)
start: list[dict[str, object]] = []


def record(what: str, event: str, attempt: int) -> None:
    """As `recording.record`, and whatever has become of the process."""
    descriptor = os.open(RECORD, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{what} {event} {attempt} {os.getpid()}\n".encode())
    os.close(descriptor)


RECORD = Path("record").absolute()


def surroundings() -> dict[str, object]:
    """What a handler may rely on."""
    mask = os.umask(0o22)
    os.umask(mask)
    threads = {thread.name for thread in threading.enumerate() if not thread.daemon}
    return {
        "folder": Path.cwd(),
        "umask": mask,
        "environment": dict(os.environ),
        "zone": time.tzname,
        "handlers": {n: signal.getsignal(n) for n in range(1, 32)},
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "limits": [resource.getrlimit(n) for n in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS)],
        "threads": threads,
        "children": children(),
        "output": [os.fstat(n).st_ino for n in (0, 1, 2)],
        "crashes": faulthandler.is_enabled(),
    }


def children() -> int:
    return sum(len((task / "children").read_text().split()) for task in Path("/proc/self/task").iterdir())


@bus.on_worker_start
def remember() -> None:
    start.append(surroundings())


def healthy(event: str, message: Message) -> None:
    message.extend(60)  # however slow the machine is
    now = surroundings()
    record("good", event, message.attempt)
    assert now == start[0], {name: (start[0][name], now[name]) for name in now if now[name] != start[0][name]}


@bus.channel("same", processes=2, memory_limit=MEMORY).subscribe(
    work, retry=RetryPolicy(ATTEMPTS, delays=(0,)), time_limit=1, kill_after=0.4
)
def handle(event: str, message: Message) -> None:
    if event.isdigit():
        healthy(event, message)
    else:
        record("bad", event, message.attempt)
        WAYS[event].do(message)


@bus.channel("other").subscribe(other, retry=RetryPolicy(1))
def handle_other(event: str, message: Message) -> None:
    healthy(event, message)
