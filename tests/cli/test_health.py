"""`busworker health` of a service that isn't well: one line and the exit code. Of one that is: test_service.py."""

import subprocess

from tests.support import Command, Home, wait_until

APP = """
from busworker import Bus, Topic
bus = Bus("{0}")
@bus.channel("welcome").subscribe(Topic("user.registered", dict[str, int]))
def send(event): pass
"""


def said(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """The exit code, and the one line there is."""
    (line,) = (done.stdout + done.stderr).splitlines()
    return done.returncode, line


def test_a_service_without_its_broker_is_live_and_says_what_is_wrong(command: Command, home: Home) -> None:
    home.write("app.py", APP.format("email"))
    service = command.start("start", "app", "--broker", "amqp://guest:secret@127.0.0.1:1")
    service.wait_log("trying again")
    wait_until(lambda: "failing" in command.run("health").stderr, 10, "the failure is known")
    assert said(command.run("health", "live")) == (0, "live: email (instance default) is failing")
    for probe, what in (("ready", "is not ready"), ("startup", "has not started")):
        code, line = said(command.run("health", probe))
        assert (code, line.startswith(f"busworker: email (instance default) {what}: channel welcome")) == (69, True)
        assert "127.0.0.1" in line
        assert "secret" not in line
    service.terminate()
