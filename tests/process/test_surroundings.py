"""What a worker puts back after a handler, and for what it is replaced; each in a process of its own."""

import ast
import subprocess
import sys

import pytest

from tests.support import Home

PROGRAM = """
import ctypes, faulthandler, gc, os, resource, signal, socket, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from busworker.worker.surroundings import Surroundings

changed = []
out = os.dup(1)
first, second = os.pipe()
faulthandler.enable()
surroundings = Surroundings(os.getppid(), (0, 1, 2, first), lambda: changed.append("signals"))
assert surroundings.restore(thorough=True) is None
{change}
told = surroundings.restore(thorough={thorough})
os.write(out, repr([told, str(({after}))]).encode())
os._exit(0)
"""

BACK = {
    "handlers": ("signal.signal(signal.SIGTERM, print)", "signal.getsignal(signal.SIGTERM), changed", "signals"),
    "ignored": ("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "repr(signal.getsignal(signal.SIGCHLD))", "SIG_DFL"),
    "mask": ("signal.pthread_sigmask(signal.SIG_BLOCK, [15])", "signal.pthread_sigmask(0, ())", "set()"),
    "folder": ("os.chdir('/')", "os.getcwd() != '/'", "True"),
    "lost folder": ("os.mkdir('x'); os.chdir('x'); os.rmdir('../x')", "Path.cwd().name != 'x'", "True"),
    "umask": ("os.umask(0)", "os.umask(0) != 0", "True"),
    "variable": ("os.environ['NEW'] = '1'", "'NEW' in os.environ or os.popen('echo $NEW').read()", "\n"),
    "no variable": ("del os.environ['HOME']", "bool(os.popen('echo $HOME').read().strip())", "True"),
    "environ": ("os.environ = {}", "'HOME' in os.environ", "True"),
    "soft limit": (
        "was = resource.getrlimit(7); resource.setrlimit(7, (20, was[1]))",
        "resource.getrlimit(7) == was",
        "True",
    ),
    "faulthandler": ("faulthandler.disable()", "changed", "signals"),
    "zombie": ("subprocess.Popen(['true']); time.sleep(0.3)", "os.path.exists('/proc/self')", "True"),
    "pool": ("pool = ThreadPoolExecutor(2); pool.submit(int).result()", "threading.active_count()", "2"),
    "daemon": ("threading.Thread(target=time.sleep, args=(9,), daemon=True).start()", "threading.active_count()", "2"),
}
SELDOM = {
    "timer": (
        "signal.setitimer(signal.ITIMER_PROF, 9)",
        "[round(n) for n in signal.getitimer(signal.ITIMER_PROF)]",
        "[0, 0]",
    ),
    "trace": ("sys.settrace(lambda *_: None)", "sys.gettrace()", "None"),
    "collector": ("gc.disable()", "gc.isenabled()", "True"),
    "timeout": ("socket.setdefaulttimeout(3)", "socket.getdefaulttimeout()", "None"),
    "stdout": ("sys.stdout = None", "sys.stdout.fileno()", "1"),
}
REPLACED = {
    "closed": ("os.close(first)", "closed descriptors"),
    "hard limit": ("os.getuid() or os.setuid(65534); resource.setrlimit(7, (20, 20))", "can't be undone"),
    "child": ("child = subprocess.Popen(['cat'], stdin=subprocess.PIPE)", "a child process"),
    "thread": ("threading.Thread(target=time.sleep, args=(9,), name='mine').start()", "the thread 'mine'"),
    "threads": (
        "[threading.Thread(target=time.sleep, args=(9,), daemon=True).start() for _ in range(40)]",
        "left the thread",
    ),
    "priority": ("os.nice(1)", "priority"),
    "group": ("os.setpgid(0, 0)", "process group"),
    "output": ("os.dup2(os.open('out', os.O_CREAT | os.O_WRONLY), 1)", "replaced its output"),
}


def run(home: Home, change: str, after: str = "''", *, thorough: bool) -> tuple[str | None, str]:
    """What `restore` said, and what `after` was then."""
    program = PROGRAM.format(change=change, after=after, thorough=thorough)
    done = subprocess.run(
        [sys.executable, "-u", "-c", program],
        cwd=home.path,
        env=home.env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told, now = ast.literal_eval(done.stdout)
    return told, now


@pytest.mark.parametrize("name", BACK)
def test_what_is_cheap_is_put_back_after_each_message(home: Home, name: str) -> None:
    change, after, expected = BACK[name]
    told, now = run(home, change, after, thorough=False)
    assert (told, expected in now) == (None, True), now


@pytest.mark.parametrize("name", SELDOM)
def test_what_is_seldom_changed_is_put_back_by_a_thorough_look(home: Home, name: str) -> None:
    change, after, expected = SELDOM[name]
    assert run(home, change, after, thorough=True) == (None, expected)


@pytest.mark.parametrize("name", REPLACED)
def test_for_the_rest_the_worker_is_replaced(home: Home, name: str) -> None:
    change, reason = REPLACED[name]
    told, _ = run(home, change, thorough=True)
    assert told is not None
    assert reason in told
