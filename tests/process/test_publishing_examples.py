"""The services of contrib/examples/publishing, each in its real framework and server: what they accept is stored."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import Command, Home, Stage, wait_until

EXAMPLES = Path(__file__).parents[2] / "contrib" / "examples" / "publishing"
FLASK = ("gunicorn", "--preload", "--workers", "2", "--bind", "127.0.0.1:0", "flask_app:app")
FASTAPI = ("uvicorn", "--port", "0", "fastapi_app:app")
DJANGO = ("runserver", "--noreload", "127.0.0.1:0")
NOBODY = "amqp://guest:guest@127.0.0.1:1/"
"""No broker listens there."""

HOLDING = """
import sys, apsw
store = apsw.Connection(sys.argv[1])
store.set_busy_timeout(10_000)
store.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
store.execute("ROLLBACK")
"""

Answer = tuple[int, Any]


class Server:
    """A web service in a session of its own, at a port that it has chosen."""

    def __init__(self, home: Home, command: list[str], folder: Path, env: Mapping[str, str]) -> None:
        self._log = home.logs / "server"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment(home, env), stdout=log, stderr=log, start_new_session=True
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def url(self) -> str:
        """Its address, once it listens."""
        assert self.process.poll() is None, self.log
        found = re.search(r"http://127\.0\.0\.1:\d+", self.log)
        return found[0] if found else ""

    def ask(self, path: str, data: bytes | None = None, kind: str = "application/x-www-form-urlencoded") -> Answer:
        """The status and the body of an answer."""
        url = wait_until(self.url, 20, lambda: f"a server that listens:\n{self.log}")
        request = urllib.request.Request(f"{url}{path}", data, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read()

    def post(self, path: str, **fields: str) -> Answer:
        status, body = self.ask(path, urllib.parse.urlencode(fields).encode())
        return status, json.loads(body)

    def post_json(self, path: str, **fields: object) -> Answer:
        status, body = self.ask(path, json.dumps(fields).encode(), "application/json")
        return status, json.loads(body)

    def wait_log(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.log.count(text) >= times, 20, lambda: f"{times} times {text!r} in\n{self.log}")

    def wait(self) -> None:
        """Until it has ended, with whatever exit code this server has for TERM."""
        self.process.wait(20)

    def terminate(self) -> None:
        self.process.terminate()
        self.wait()

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # with its workers
        self.process.wait(10)


Serve = Callable[..., Server]


def environment(home: Home, more: Mapping[str, str]) -> dict[str, str]:
    return home.env | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "DATABASE": str(home.path / "site.sqlite3"),
        **more,
    }


@pytest.fixture
def serve(home: Home, command: Command) -> Iterator[Serve]:
    """Starts an example; it ends with the test, before `command` looks for what is left."""
    servers = []

    def start(*args: str, folder: Path = EXAMPLES, broker: str = "") -> Server:
        env = {"BUSWORKER_BROKER": broker} if broker else {}
        servers.append(Server(home, [sys.executable, *args], folder, env))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


def run(home: Home, *command: str, folder: Path = EXAMPLES, broker: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(home, {"BUSWORKER_BROKER": broker} if broker else {}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def stored(stage: Stage) -> list[tuple[str, str, Any]]:
    """Takes id, topic and event of what lies in the default bus, oldest first. Nobody subscribes: it is unrouted."""
    with stage.kombu() as channel:
        messages = list(iter(lambda: channel.basic_get("busworker.unrouted", no_ack=True), None))
    return [(one.properties["message_id"], one.properties["type"], json.loads(one.body)) for one in messages]


@contextlib.contextmanager
def held(home: Home) -> Iterator[None]:
    """Somebody else's transaction on the default bus: what is published meanwhile waits."""
    command = [sys.executable, "-c", HOLDING, str(home.state / "busworker" / "bus" / "bus.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.communicate(timeout=10)


def out_of_order(home: Home) -> str:
    """The URL of a bus that can't be: a file is where its folder would be."""
    home.write("file", "")
    return f"filesystem://{home.path}/file/bus"


def test_flask_in_preloaded_gunicorn_stores_what_it_accepts(serve: Serve, stage: Stage, home: Home) -> None:
    server = serve("-m", *FLASK)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: server.post("/users", email=f"{number}@example.org"), range(8)))
        with held(home):
            pages = list(pool.map(lambda number: server.ask(f"/pages/{number}"), range(8)))
            server.process.terminate()
            server.wait_log("Worker exiting", times=2)
    server.wait()  # what nobody waited for is sent before a process ends
    assert {status for status, _ in (*answers, *pages)} == {200, 201}
    users = {(body["message"], "user.registered", f"{number}@example.org") for number, (_, body) in enumerate(answers)}
    found = stored(stage)
    assert {(id, topic, event["email"]) for id, topic, event in found if topic == "user.registered"} == users
    assert pages_of(found) == {str(number) for number in range(8)}
    assert len(found) == 16


def pages_of(found: list[tuple[str, str, Any]]) -> set[str]:
    return {event["page"] for _, topic, event in found if topic == "page.seen"}


def test_flask_answers_503_when_nothing_can_be_stored_and_shows_pages(serve: Serve, home: Home) -> None:
    server = serve("-m", *FLASK, broker=out_of_order(home))
    assert server.post("/users", email="a@example.org") == (503, {"error": "try again later"})
    assert server.ask("/pages/home") == (200, b"<h1>home</h1>")
    assert "not a folder" in server.log or "Not a directory" in server.log


def test_fastapi_in_uvicorn_stores_what_it_accepts(serve: Serve, stage: Stage, home: Home) -> None:
    server = serve("-m", *FASTAPI)
    status, body = server.post_json("/users", email="a@example.org")
    assert status == 201
    assert server.post_json("/users", email=7)[0] == 422
    with held(home):
        for number in range(8):
            assert server.ask(f"/pages/{number}")[0] == 200
        server.process.terminate()
        server.wait_log("Waiting for application shutdown")
    server.wait()  # what nobody waited for is sent before the process ends
    found = stored(stage)
    assert (body["message"], "user.registered", {"email": "a@example.org"}) in found
    assert pages_of(found) == {str(number) for number in range(8)}
    assert len(found) == 9


def test_fastapi_answers_503_at_the_deadline_and_serves_others_meanwhile(serve: Serve) -> None:
    server = serve("-m", *FASTAPI, broker=NOBODY)
    assert server.ask("/pages/first")[0] == 200
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.post_json, "/users", email="a@example.org")
        pages = 0
        while not waiting.done():
            assert server.ask(f"/pages/{pages}")[0] == 200
            pages += 1
        assert waiting.result() == (503, {"detail": "try again later"})
    assert 3.5 < time.monotonic() - begun < 15
    assert pages > 10


@pytest.fixture
def site(home: Home) -> Path:
    """The Django site, with its database in the home."""
    folder = EXAMPLES / "django_site"
    done = run(home, "manage.py", "migrate", "--run-syncdb", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_django_publishes_what_is_committed_and_nothing_else(
    serve: Serve, site: Path, home: Home, stage: Stage
) -> None:
    server = serve("manage.py", *DJANGO, folder=site)
    assert server.post("/users", email="a@example.org", name="ada") == (201, {"account": 1})
    assert (
        server.post("/users", email="b@example.org", name="ada")[0] == 409
    )  # rolled back, after it was to be announced
    assert server.post("/users", email="b@example.org", name="bea")[0] == 201
    server.terminate()
    events = [event for _, _, event in stored(stage)]
    assert [event["email"] for event in events] == ["a@example.org", "b@example.org"]
    assert run(home, "manage.py", "announce", folder=site).returncode == 0
    assert stored(stage) == []  # nobody was left to be announced


def test_django_announces_later_what_no_broker_took(serve: Serve, site: Path, home: Home, stage: Stage) -> None:
    server = serve("manage.py", *DJANGO, folder=site, broker=out_of_order(home))
    assert server.post("/users", email="a@example.org", name="ada")[0] == 201
    server.terminate()
    failed = run(home, "manage.py", "announce", folder=site, broker=out_of_order(home))
    assert (failed.returncode, "1 account(s) are still not announced" in failed.stderr) == (1, True)
    assert run(home, "manage.py", "announce", folder=site).returncode == 0
    assert stored(stage) == [("account-1", "user.registered", {"account": 1, "email": "a@example.org"})]


def test_a_script_tells_by_its_exit_code_what_is_stored(home: Home, stage: Stage) -> None:
    home.write("users", "a@example.org\nb@example.org\n")
    users = str(home.path / "users")
    failed = run(home, "import_users.py", users, broker=out_of_order(home))
    assert (failed.returncode, failed.stdout) == (1, "a@example.org\nb@example.org\n")
    assert "a@example.org is not stored (failed): " in failed.stderr
    done = run(home, "import_users.py", users)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [(id, event["email"]) for id, _, event in stored(stage)] == [
        ("import-a@example.org", "a@example.org"),
        ("import-b@example.org", "b@example.org"),
    ]
