"""How commands end: exit codes, one line on stderr, help texts, and what is not imported."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import click
import psutil
import pytest

from busworker import errors
from busworker.cli import ending
from busworker.cli.commands import COMMANDS
from busworker.ipc.control import NotRunning, Refused
from tests.support import Command, Home, wait_until
from tests.support.command import executable


def because(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.EncodeError("x"), 65),
        (errors.DecodeError("x"), 65),
        (errors.NothingMatches("x"), 66),
        (errors.BrokerUnavailable("x"), 69),
        (errors.PublishFailed("x"), 69),
        (because(errors.PublishFailed("x"), errors.ConfigurationError("y")), 78),
        (errors.ControlError("x"), 69),
        (NotRunning("x"), 69),
        (Refused("x", 66), 66),
        (errors.AlreadyRunning("x"), 73),
        (ending.CutShort("x"), 75),
        (errors.ConfigurationError("x"), 78),
        (errors.ApplicationError("x"), 78),
        (errors.TopologyMismatch("x"), 78),
        (errors.ProtocolError("x"), 1),
    ],
)
def test_each_error_has_its_exit_code(error: errors.BusworkerError, code: int) -> None:
    assert ending.exit_code(error) == code


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (
            errors.BrokerUnavailable("broker amqp://u:secret@h\nis \x1b[31m down"),
            69,
            "amqp://u:***@h is \\x1b[31m down",
        ),
        (KeyboardInterrupt(), 130, ""),
        (ending.Told(signal.SIGTERM), 143, ""),
        (click.UsageError("What."), 2, "busworker: What."),
        (ZeroDivisionError("no"), 1, "unexpected ZeroDivisionError: no at "),
    ],
)
def test_whatever_a_command_raises_becomes_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: BaseException, code: int, said: str
) -> None:
    def command(**_: object) -> None:
        raise raised

    monkeypatch.setattr("busworker.cli.commands.busworker.main", command)
    assert ending.run([]) == code
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") <= 1


def test_term_ends_a_command_whose_output_nobody_reads(command: Command, home: Home) -> None:
    command.run("publish", "a", "-", input=200 * f'"{500 * "x"}"\n')  # more than a pipe holds
    args = [executable(), "dead", "export", "unrouted"]
    with subprocess.Popen(args, env=home.env, cwd=home.path, stdout=subprocess.PIPE) as exporting:
        process = psutil.Process(exporting.pid)
        wait_until(lambda: "pipe_write" in wchan(process), 20, "it waits for its reader")
        exporting.terminate()
        assert exporting.wait(20) == 128 + signal.SIGTERM


def wchan(process: psutil.Process) -> str:
    """Where in the kernel it sleeps (proc(5))."""
    return Path(f"/proc/{process.pid}/wchan").read_text()


def test_output_that_a_full_disk_does_not_take_is_told_in_a_line(command: Command, home: Home) -> None:
    command.run("publish", "a", "1")
    for args in (["subscriptions", "list"], ["dead", "list", "unrouted", "--json"]):
        with open("/dev/full", "w") as full:  # noqa: PTH123
            done = subprocess.run(
                [executable(), *args], env=home.env, cwd=home.path, stdout=full, stderr=subprocess.PIPE, check=False
            )
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
        assert b"the output can't be written: No space left on device" in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        *COMMANDS,
        *(f"dead {name}" for name in ("list", "show", "replay", "drop", "export", "import")),
        *(f"subscriptions {name}" for name in ("list", "remove")),
    ],
)
def test_every_command_has_a_help_text(command: Command, name: str) -> None:
    done = command.run(*name.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: busworker {name}" in done.stdout


def test_help_lists_the_commands_and_the_version_is_told(command: Command) -> None:
    listed = command.run("--help").stdout
    assert [name for name in COMMANDS if f"\n  {name} " not in listed] == []
    assert command.run("--version").stdout.startswith("busworker ")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("statu", "No such command 'statu'. Did you mean 'status'? See 'busworker --help'"),
        ("nonsense", "No such command 'nonsense'"),
        ("start", "no application: name it"),
        ("check", "no application: name it"),
        ("publish", "Missing argument 'TOPIC'"),
        ("publish User.Registered 1", "is no topic name"),
        ("publish user.* 1", "is no topic name"),
        ("publish a 1 --delay soon", "duration='soon'"),
        ("publish a 1 --header x", "'x' is no header"),
        ("publish a - --id x", "--id names one message"),
        ("scale welcome", "Write welcome=N"),
        ("scale welcome=0", "is no number of workers"),
        ("scale Welcome=1", "is no channel name"),
        ("status --service Email", "is no service name"),
        ("start app --channel a=x", "is no number of workers"),
        ("start app --grace soon", "soon"),
        ("start app --log-level loud", "there is no 'loud'"),
        ("dead list --reason sadness", "sadness"),
        ("dead list --limit -1", "-1"),
        ("dead list --older-than long", "long"),
        ("dead list --group-by sadness", "sadness"),
        ("dead replay x --rate 0", "'0' is no rate"),
        ("dead replay", "name IDs, a SELECTOR, or --everywhere"),
        ("dead drop --yes", "name IDs, a SELECTOR, or --everywhere"),
        ("dead drop x --everywhere", "not both"),
        ("subscriptions list unrouted", "names no subscription"),
        ("subscriptions remove email.welcome", "write TOPIC/SERVICE.CHANNEL"),
        ("subscriptions remove", "Missing argument"),
        ("why", "Missing argument"),
        ("why m1 a/b/c", "names no subscription"),
        ("tail User.*", "is no pattern"),
        ("tail a --limit 0", "0"),
        ("dead import nofile", "No such file"),
        ("dead run m1", "no application: name it"),
    ],
)
def test_wrong_usage_is_one_line_and_2(command: Command, args: str, said: str) -> None:
    done = command.run(*args.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.startswith("busworker: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("args", ["dead list", "dead list unrouted", "dead export", "dead show x"])
def test_without_a_store_nothing_is_made(command: Command, home: Home, args: str) -> None:
    done = command.run(*args.split(), "--broker", f"filesystem://{home.path}/nowhere")
    assert (done.returncode, done.stdout) == (69, "")
    assert "no store" in done.stderr
    assert not (home.path / "nowhere").exists()


def test_wrong_settings_are_78_wherever_they_are(command: Command, home: Home) -> None:
    home.write("app.py", "from busworker import Bus\nbus = Bus('x')")
    assert command.run("start", "app", env={"BUSWORKER_GRACE": "soon"}).returncode == 78
    unknown = command.run("publish", "a", "1", "--broker", "redis://user:secret@host")
    assert (unknown.returncode, "secret" in unknown.stderr) == (78, False)
    assert "filesystem://" in unknown.stderr
    home.write("pyproject.toml", "[tool.busworker]\nbrokr = 'x'")
    done = command.run("status")
    assert (done.returncode, "did you mean 'broker'" in done.stderr) == (78, True)


def test_a_reader_that_left_is_no_error(home: Home) -> None:
    script = f"{executable()} --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script],
        env=home.env | {"PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")


@pytest.mark.parametrize(
    "args", ["--help", "publish --help", "dead list --help", "start --help", "status", "scale a=1", "stop", "check app"]
)
def test_kombu_is_not_imported_for(home: Home, args: str) -> None:
    home.write(
        "app.py", "from busworker import Bus, Topic\nbus = Bus('x')\nbus.channel('c').subscribe(Topic('a', int))(print)"
    )
    script = (
        "import sys\nfrom busworker.cli.ending import run\nrun(sys.argv[1:])\n"
        "sys.exit(str(sorted({'kombu', 'amqp', 'apsw', 'rich'} & set(sys.modules)) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *args.split()],
        env=home.env,
        cwd=home.path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "kombu" not in done.stderr.splitlines()[-1]
    assert "[" not in done.stderr.splitlines()[-1]


def test_python_m_is_the_same_command(home: Home) -> None:
    args = [sys.executable, "-m", "busworker", "--version"]
    done = subprocess.run(args, env=home.env, cwd=Path("/"), capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.startswith("busworker ")


def test_the_arguments_of_a_command_show_no_password_to_others(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        url = f"amqp://user:SECRET@127.0.0.1:{silent.getsockname()[1]}"
        service = command.start("publish", "work", "1", "--broker", url)
        with silent.accept()[0]:  # it runs, and waits for an answer
            shown = " ".join(psutil.Process(service.pid).cmdline())
        service.kill()
    assert shown.strip() == f"busworker publish work 1 --broker {url.replace('SECRET', '***')}"
