"""contrib/docker names what exists, and its times fit each other. No image is built; tox -e containers lints it."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from busworker.cli.commands import busworker
from busworker.settings import GRACE, SETTINGS
from busworker.units import seconds

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "contrib" / "docker"
APP = ROOT / "contrib" / "examples" / "signup"
GIVING_BACK = 15.0
"""Seconds beyond the grace for which `busworker stop` waits too."""

Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    """The Dockerfile, a pair an instruction."""
    lines = [line for line in (FOLDER / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def the(name: str) -> str:
    """What the last of these instructions says."""
    return [rest for one, rest in instructions() if one == name][-1]


def environment() -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(the("ENV")))


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return document


def services() -> dict[str, dict[str, Any]]:
    """Those of our image."""
    return {name: one for name, one in compose()["services"].items() if "build" in one}


def understood(words: list[str]) -> None:
    """Fails if the command line doesn't take these words."""
    program, name, *args = words
    assert program == "busworker"
    context = click.Context(busworker, **busworker.context_settings)
    command = busworker.get_command(context, name)
    assert command is not None, name
    command.make_context(name, args, context)


def test_the_image_is_made_of_files_that_exist() -> None:
    given = {
        name: default for name, _, default in (rest.partition("=") for one, rest in instructions() if one == "ARG")
    }
    copied = [rest for name, rest in instructions() if name == "COPY"]
    for line in copied:
        *sources, _ = re.sub(r"\$\{(\w+)\}", lambda found: given[found[1]], line).split()
        assert [source for source in sources if not (ROOT / source).exists()] == []
    assert ROOT / given["APP"] == APP
    project = (ROOT / "pyproject.toml").read_text()
    for name in ("README.md", "LICENSE"):
        assert f'"{name}"' in project, "what the wheel is built from"
        assert name in copied[0]


def test_the_supervisor_is_the_first_process_and_no_root() -> None:
    understood([*json.loads(the("ENTRYPOINT")), *json.loads(the("CMD"))])
    assert int(the("USER")) > 0
    assert the("STOPSIGNAL") == "SIGTERM"


def test_the_health_check_is_one_and_waits_longer_than_the_command() -> None:
    options, _, command = the("HEALTHCHECK").partition(" CMD ")
    understood(json.loads(command))
    given = dict(option.removeprefix("--").split("=") for option in options.split())
    assert seconds(given["timeout"], "timeout") > 5.0  # ANSWER_WITHIN of busworker/cli/health.py


def test_what_has_to_stay_is_on_the_volume() -> None:
    there = environment()
    for path in (there["BUSWORKER_BROKER"].removeprefix("filesystem://"), there["XDG_STATE_HOME"]):
        assert Path(path).is_relative_to(the("VOLUME"))


def variables() -> list[tuple[str, dict[str, str]]]:
    return [("the image", environment()), *((name, one["environment"]) for name, one in services().items())]


@pytest.mark.parametrize(("where", "given"), variables(), ids=lambda one: one if isinstance(one, str) else "")
def test_the_variables_are_settings(where: str, given: dict[str, str]) -> None:
    known = {setting.variable: setting for setting in SETTINGS}
    for name, value in given.items():
        if name.startswith("BUSWORKER_"):
            known[name].read(value, name)
    if "BUSWORKER_APP" in given:
        assert (APP / f"{given['BUSWORKER_APP']}.py").is_file()


@pytest.mark.parametrize("name", services())
def test_a_service_of_the_compose_file_fits_the_rest(name: str) -> None:
    one = services()[name]
    context = (FOLDER / one["build"]["context"]).resolve()
    assert (context / one["build"]["dockerfile"]).samefile(FOLDER / "Dockerfile")
    grace = float(one["environment"].get(GRACE.variable, GRACE.default))
    assert seconds(one["stop_grace_period"], "stop_grace_period") >= grace + GIVING_BACK
    for other, how in one["depends_on"].items():
        assert how["condition"] == "service_healthy"
        assert "healthcheck" in compose()["services"][other]
    match one.get("entrypoint"):
        case None:
            understood(["busworker", *one.get("command", json.loads(the("CMD")))])
        case ["python", program]:
            assert (APP / program).is_file()
        case other:
            raise AssertionError(other)


def test_the_broker_of_the_compose_file_has_that_user() -> None:
    rabbitmq = compose()["services"]["rabbitmq"]
    user, password = (rabbitmq["environment"][f"RABBITMQ_DEFAULT_{what}"] for what in ("USER", "PASS"))
    brokers = {one["environment"]["BUSWORKER_BROKER"] for one in services().values()}
    assert brokers == {f"amqp://{user}:{password}@{rabbitmq['hostname']}/"}


def test_the_page_shows_commands_for_these_files() -> None:
    page = (ROOT / "docs" / "how-to" / "docker.md").read_text()
    named = set(re.findall(r"contrib/[\w./-]+", page))
    assert {"contrib/docker/Dockerfile", "contrib/docker/compose.yaml"} <= named
    assert [path for path in named if not (ROOT / path).exists()] == []
    ours = set(compose()["services"])
    assert set(re.findall(r"compose\.yaml (?:exec|run --rm) (\w+)", page)) <= ours
