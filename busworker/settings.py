"""The settings, each declared once with its unit, range, default, variable, option and help.

A value comes from its command line option, else from `BUSWORKER_*`, else from the `Bus(...)` argument, else
from `[tool.busworker]` of the nearest pyproject.toml upward, else it is the default. The
folders and files of a service are in `busworker.places`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

from busworker.addresses import parse_address
from busworker.errors import ConfigurationError
from busworker.names import checked_name
from busworker.places import default_broker
from busworker.units import seconds

T = TypeVar("T")

MOST_PROCESSES = 1000
OFF = "off"
"""Instead of an address: none, whatever is set elsewhere."""


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """One setting.

    Attributes:
        name: its key in pyproject.toml; variable and option follow from it.
        kind: what it is, for people: its unit and range.
        default: what is shown as the default; None: there is none, or it is made (see `broker_of`).
        help: one line for `--help` and the reference.
        read: makes the value of what was given, or raises ConfigurationError; its second argument says
            where it was given.
        in_project: whether pyproject.toml may hold it.
        metavar: how `--help` names its value.
        choices: the only values there are, if they can be listed.
    """

    name: str
    kind: str
    default: T | None
    help: str
    read: Callable[[object, str], T]
    in_project: bool = True
    metavar: str = "TEXT"
    choices: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"BUSWORKER_{self.name.upper()}"

    @property
    def option(self) -> str:
        """Its command line option."""
        return f"--{self.name.replace('_', '-')}"


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{where}: {value!r} is no text: write it in quotes")
    if not value.strip():
        raise ConfigurationError(f"{where} is empty: give a value, or leave it out")
    return value.strip()


def _service(value: object, where: str) -> str:
    return checked_name(_text(value, where), "service")


def _instance(value: object, where: str) -> str:
    return checked_name(_text(value, where), "instance")


def _processes(value: object, where: str) -> int:
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MOST_PROCESSES:
        raise ConfigurationError(f"{where}: {value!r} is no number of workers: give 1 to {MOST_PROCESSES}")
    return number


def _duration(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigurationError(f'{where}: {value!r} is no duration: give seconds, or a text like "10m"')
    return seconds(value, where)


def _count(value: object, where: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isascii() or not text.isdigit():
        raise ConfigurationError(f"{where}: {value!r} is no number: give a whole number from 0 up")
    return int(text)


def _folder(value: object, where: str) -> str:
    return str(Path(_text(value, where)).expanduser().absolute())


def _address(value: object, where: str) -> str:
    text = _text(value, where)
    if text != OFF:
        parse_address(text, where)
    return text


def _one_of(choices: tuple[str, ...]) -> Callable[[object, str], str]:
    def read(value: object, where: str) -> str:
        text = _text(value, where).lower()
        if text not in choices:
            raise ConfigurationError(f"{where}: there is no {value!r}: give one of {', '.join(choices)}")
        return text

    return read


LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")

BROKER = Setting("broker", "URL", None, "The broker's URL.", _text, metavar="URL")
APP = Setting(
    "app",
    "module[:attribute] or file.py[:attribute]",
    None,
    "Where the application's Bus is.",
    _text,
    metavar="APP",
)
SERVICE = Setting("service", "name", None, "The service's name.", _service, metavar="NAME")
INSTANCE = Setting(
    "instance", "name", "default", "Tells services of one name on one bus apart.", _instance, metavar="NAME"
)
PROCESSES = Setting(
    "processes",
    f"number, 1 to {MOST_PROCESSES}",
    None,
    "Workers of each channel, instead of what the channel declares.",
    _processes,
    in_project=False,  # a channel always declares its number, and a declaration wins over pyproject.toml
    metavar="N",
)
GRACE = Setting("grace", "duration, seconds", 25.0, "Seconds a stop waits for what executes.", _duration, metavar="S")
DEAD_MAX_AGE = Setting(
    "dead_max_age", "duration, seconds", None, "Drop dead letters older than this (embedded).", _duration, metavar="S"
)
DEAD_MAX_COUNT = Setting(
    "dead_max_count", "number", None, "Keep so many dead letters of a subscription (embedded).", _count, metavar="N"
)
UNROUTED_MAX_AGE = Setting(
    "unrouted_max_age",
    "duration, seconds",
    None,
    "Drop unrouted messages older than this (embedded).",
    _duration,
    metavar="S",
)
SPOOL = Setting(
    "spool", "folder", None, "Where a publisher keeps what its broker can't take.", _folder, metavar="FOLDER"
)
HTTP = Setting(
    "http",
    "`[HOST]:PORT`, `unix:/path` or `off`",
    None,
    "Serve /metrics, /livez, /readyz and /startupz there.",
    _address,
    metavar="ADDR",
)
LOG_LEVEL = Setting(
    "log_level",
    "level",
    "info",
    "The least serious level that is logged.",
    _one_of(LEVELS),
    metavar="LEVEL",
    choices=LEVELS,
)
LOG_FORMAT = Setting(
    "log_format",
    "format",
    "text",
    "Lines for people, or JSON.",
    _one_of(FORMATS),
    metavar="FORMAT",
    choices=FORMATS,
)

SETTINGS: tuple[Setting[str] | Setting[int] | Setting[float], ...] = (
    BROKER,
    APP,
    SERVICE,
    INSTANCE,
    PROCESSES,
    GRACE,
    DEAD_MAX_AGE,
    DEAD_MAX_COUNT,
    UNROUTED_MAX_AGE,
    SPOOL,
    HTTP,
    LOG_LEVEL,
    LOG_FORMAT,
)


def find(setting: Setting[T], option: object = None, declared: T | None = None) -> T | None:
    """The value of a setting, or None if it is set nowhere and has no default.

    Args:
        setting: which.
        option: what the command line gave; None: nothing.
        declared: what the application's `Bus(...)` says; None: nothing.

    Raises:
        ConfigurationError: what was given can't be used; the message says where it was given.
    """
    given = stated(setting, option, declared)
    return setting.default if given is None else given


def require(setting: Setting[T], option: object = None, declared: T | None = None) -> T:
    """As `find`, for a setting that must have a value."""
    value = find(setting, option, declared)
    if value is None:
        raise ConfigurationError(f"no {setting.name} is set: give {setting.option} or {setting.variable}")
    return value


def stated(setting: Setting[T], option: object = None, declared: T | None = None) -> T | None:
    """As `find`, but None where only the default is left."""
    if option is not None:
        return setting.read(option, setting.option)
    variable = os.environ.get(setting.variable, "").strip()
    if variable:
        return setting.read(variable, setting.variable)
    if declared is not None:
        return declared
    path, table = project()
    if setting.name in table:
        return setting.read(table[setting.name], f"{path}: {setting.name}")
    return None


def broker_of(declared: str | None = None, option: str | None = None) -> str:
    """The broker's URL, by all the rules; `declared` is what the application's Bus says."""
    return stated(BROKER, option, declared) or default_broker()


def project() -> tuple[Path | None, Mapping[str, object]]:
    """The nearest pyproject.toml upward, and its `[tool.busworker]`; empty if there is none.

    Raises:
        ConfigurationError: the file can't be read, or has a key that doesn't exist.
    """
    path = _nearest("pyproject.toml")
    if path is None:
        return None, {}
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} can't be read: {error}") from error
    table = _table(_table(document, "tool", path), "busworker", path)
    _check_keys(table, path)
    return path, table


def _table(document: Mapping[str, object], name: str, path: Path) -> Mapping[str, object]:
    found = document.get(name, {})
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path}: {name} is no table")
    return cast("Mapping[str, object]", found)


def _check_keys(table: Mapping[str, object], path: Path) -> None:
    known = {setting.name: setting for setting in SETTINGS}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, [name for name, one in known.items() if one.in_project], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ConfigurationError(f"{path}: [tool.busworker] has no setting {key!r}; {hint}")
        if not known[key].in_project:
            raise ConfigurationError(
                f"{path}: {key!r} can't be set here: use {known[key].option} or {known[key].variable}, or "
                "declare it on each channel"
            )


def _nearest(name: str) -> Path | None:
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the current folder was removed
        return None
    return next((folder / name for folder in (here, *here.parents) if _is_file(folder / name)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that may not be looked into
        return False
