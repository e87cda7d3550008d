"""Importing an application: to its Bus, or to one line that tells what to do."""

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from busworker import application
from busworker.bus import Bus
from busworker.errors import ApplicationError

Write = Callable[[str, str], Path]

GOOD = """
from busworker import Bus, Pattern, Topic
registered = Topic("user.registered", dict[str, int])
lonely = Topic("user.lonely", list[int])
bus = Bus("email", broker="memory://x")
welcome = bus.channel("welcome", processes=3, memory_limit="1GB")
@welcome.subscribe(registered)
def send(event): pass
@welcome.subscribe(Pattern("user.*"))
def log(event): pass
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into the current folder; modules and paths of the test are forgotten at its end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def said(spec: str) -> str:
    with pytest.raises(ApplicationError) as caught:
        application.load(spec)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("spec", ["good_app", "good_app:bus", "good_app.py", "./good_app.py:bus", "good_app:"])
def test_an_application_is_found_by_module_and_by_file(write: Write, spec: str) -> None:
    write("good_app.py", GOOD)
    bus = application.load(spec)
    assert (bus.name, list(bus.channels)) == ("email", ["welcome"])
    assert application.load(spec) is bus


def test_a_file_elsewhere_imports_its_neighbours(write: Write) -> None:
    write("there/neighbour_module.py", "NAME = 'email'")
    text = "import neighbour_module\nfrom busworker import Bus\nbus = Bus(neighbour_module.NAME)"
    write("there/main_app.py", text)
    assert application.load("there/main_app.py").name == "email"


def test_handlers_in_other_modules_are_imported_and_the_application_once(write: Write) -> None:
    text = "from busworker import Bus\nbus = Bus('shop', imports=['shop_handlers'])\nc = bus.channel('c')"
    write("shop_app.py", text)
    write(
        "shop_handlers.py",
        "from busworker import Topic\nfrom shop_app import c\n@c.subscribe(Topic('a', int))\ndef h(event): pass",
    )
    loaded = application.load_application("shop_app.py")
    application.require_channels(loaded.bus)
    assert [module.__name__ for module in loaded.modules] == ["shop_app", "shop_handlers"]


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("nowhere_app", ["there is no module 'nowhere_app'", "module[:attribute]"]),
        ("nowhere_app.inner", ["there is no module 'nowhere_app'"]),
        ("nowhere_app.py", ["there is no such file"]),
        ("", ["'' is no module"]),
        ("..x", ["'..x' is no module"]),
        ("good_app:nothing", ["has no attribute 'nothing'", "use good_app:bus"]),
        ("good_app:send", ["good_app:send is of type function and no Bus"]),
        ("empty_app", ["has no attribute 'bus'", 'bus = Bus("name")']),
        ("logging", ["has no attribute 'bus'"]),
    ],
)
def test_what_is_missing_is_named(write: Write, spec: str, parts: list[str]) -> None:
    write("good_app.py", GOOD)
    write("empty_app.py", "")
    text = said(spec)
    assert [part for part in parts if part not in text] == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("\nraise SystemExit(3)", ["SystemExit: 3", ":2"]),
        ("\n\n1 / 0", ["ZeroDivisionError: division by zero", ":3"]),
        ("\ndef x(:\n", ["SyntaxError", ":2"]),
        ("import missing_dependency", ["ModuleNotFoundError: No module named 'missing_dependency'", ":1"]),
        ("from busworker import Bus\nbus = Bus('Bad Name')", ["'Bad Name' is no service name", ":2"]),
        ("import json\njson.loads('{')", ["JSONDecodeError", "broken_app.py:2"]),
        ("class Odd(BaseException): pass\nraise Odd", ["raised Odd at", ":2"]),
        (GOOD + "bus.publish(registered, {})", ["publishes while its application is imported", "broken_app.py:11"]),
    ],
)
def test_what_the_import_raised_is_told_with_its_place(write: Write, text: str, parts: list[str]) -> None:
    write("broken_app.py", text)
    told = said("broken_app")
    assert [part for part in ["broken_app.py", *parts] if part not in told] == []


def test_control_c_is_no_error_of_the_application(write: Write) -> None:
    write("interrupted_app.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        application.load("interrupted_app")


def test_a_file_named_like_another_module_is_refused(write: Write) -> None:
    write("json.py", GOOD)
    assert "Python already has a module 'json'" in said("json.py")


def test_our_loggers_survive_the_applications_logging_configuration(write: Write) -> None:
    logging.getLogger("busworker.application")
    write("logging_app.py", "import logging.config\nlogging.config.dictConfig({'version': 1})\n" + GOOD)
    application.load("logging_app")
    assert not logging.getLogger("busworker.application").disabled


def test_a_service_needs_channels_with_subscriptions() -> None:
    bus = Bus("email")
    with pytest.raises(ApplicationError, match="has no channels"):
        application.require_channels(bus)
    bus.channel("welcome")
    with pytest.raises(ApplicationError, match=r"channel email\.welcome has no subscriptions"):
        application.require_channels(bus)


def test_the_type_of_a_topic_is_found_in_subscriptions_and_modules(write: Write) -> None:
    write("good_app.py", GOOD)
    loaded = application.load_application("good_app")
    known = [application.codec_of(loaded, topic) for topic in ("user.registered", "user.lonely", "user.other")]
    assert [codec is not None for codec in known] == [True, True, False]


# Previews, in a process of their own, since they fork


def previewed(folder: Path, code: str) -> str:
    """What a script prints in the folder; what it needs is imported."""
    script = (
        "import os, sys\nfrom busworker import application\nfrom busworker.errors import ApplicationError\n"
        f"from busworker.preview import preview\n{code}"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_preview_declares_the_same_and_imports_nothing(write: Write) -> None:
    path = write("good_app.py", GOOD)
    code = "seen = preview('good_app')\nprint('good_app' in sys.modules, seen.broker)\n"
    code += "print(application.load('good_app').spec == seen.spec)"
    assert previewed(path.parent, code).split() == ["False", "memory://x", "True"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise ValueError('no')", "ValueError: no"),
        ("import os\nos._exit(4)", "exit code 4"),
        ("import os\nos.kill(os.getpid(), 11)", "SIGSEGV"),
    ],
)
def test_a_preview_tells_what_went_wrong(write: Write, text: str, said: str) -> None:
    path = write("broken_app.py", text)
    code = "try: preview('broken_app')\nexcept ApplicationError as error: print(error)"
    assert said in previewed(path.parent, code)


def test_a_preview_leaves_no_process(write: Write) -> None:
    threads = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    path = write("threads_app.py", threads + GOOD)
    code = "print(preview('threads_app').name)\ntry: os.waitpid(-1, 0)\nexcept ChildProcessError: print('none')"
    assert previewed(path.parent, code).split() == ["email", "none"]
