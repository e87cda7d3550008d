"""Imports an application: from `module[:attribute]` or `file.py[:attribute]` to its Bus.

Runs in the supervisor, in workers that import for themselves, and in commands that look at what is declared.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

from busworker import logs
from busworker.bus import Bus, importing
from busworker.errors import ApplicationError
from busworker.payload import Codec
from busworker.plain import told
from busworker.topic import Topic

log = logging.getLogger("busworker.application")

ATTRIBUTE = "bus"
_FORM = "write module[:attribute] or file.py[:attribute]"
_ELSEWHERE = "change to a folder that exists"
_OURS = str(Path(__file__).parent)


@dataclass(frozen=True, slots=True)
class Application:
    """An imported application: its bus, and the modules that were named (its own, then `Bus(imports=…)`)."""

    bus: Bus
    modules: tuple[ModuleType, ...]


def load(spec: str) -> Bus:
    """The Bus of an application, with the modules imported that it names.

    Args:
        spec: `module[:attribute]` or `file.py[:attribute]`; the attribute is `bus` if none is given. The
            current folder, and a file's own, become importable.

    Raises:
        ApplicationError: there is no such module, file or attribute, it is no Bus, or importing raised
            something (`SystemExit` included). One line says what, where in the application, and what to do.

    Guarantees:
        Publishing is refused meanwhile. Loading it again imports nothing anew.
    """
    return load_application(spec).bus


def load_application(spec: str) -> Application:
    """As `load`, with the modules."""
    place, _, attribute = spec.partition(":")
    here = _current_folder()
    if here is not None:
        _make_importable(here)
    module = _file(place) if place.endswith(".py") or "/" in place else _module(place, f"application {spec!r}")
    bus = _bus(module, attribute or ATTRIBUTE)
    imported = [_module(name, f"imports of service {bus.name}") for name in bus.imports]
    logs.reclaim()
    return Application(bus, (module, *imported))


def require_channels(bus: Bus) -> None:
    """Checks that there is something to run.

    Raises:
        ApplicationError: the bus has no channel, or one without a subscription.
    """
    if not bus.channels:
        raise ApplicationError(
            f"service {bus.name} has no channels: declare one by bus.channel(...), or name the modules "
            "that do in Bus(imports=...)"
        )
    for channel in bus.channels.values():
        if not channel.subscriptions:
            raise ApplicationError(
                f"channel {bus.name}.{channel.name} has no subscriptions: name the modules with its "
                "handlers in Bus(imports=...), or remove it"
            )


def codec_of(application: Application, topic: str) -> Codec[object] | None:
    """What an application says about a topic: by a subscription, or by a Topic in one of its modules.

    Returns:
        The codec of its type; None if the application doesn't know the topic (a pattern says nothing of it).
    """
    for channel in application.bus.channels.values():
        for subscription in channel.subscriptions:
            if subscription.spec.topic == topic and not subscription.spec.pattern:
                return subscription.codec
    for module in application.modules:
        for value in vars(module).values():
            if isinstance(value, Topic) and value.name == topic:
                return cast("Topic[object]", value).codec
    return None


def _file(place: str) -> ModuleType:
    if not Path(place).is_absolute() and _current_folder() is None:
        raise ApplicationError(f"application {place!r}: the current folder was removed: {_ELSEWHERE}")
    path = Path(place).absolute()
    if not path.is_file():
        raise ApplicationError(f"application {place!r}: there is no such file; {_FORM}")
    _make_importable(path.parent)
    # Under the name by which its own modules import it, so that it isn't imported twice.
    module = _module(path.stem, f"application {place!r}")
    found = getattr(module, "__file__", None)
    if found is None or not path.samefile(found):
        raise ApplicationError(
            f"application {place!r}: Python already has a module {path.stem!r} ({found or 'built in'}): rename the file"
        )
    return module


def _module(name: str, what: str) -> ModuleType:
    if not name or not all(name.split(".")):
        raise ApplicationError(f"{what}: {name!r} is no module; {_FORM}")
    try:
        with importing():
            return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an import may raise anything, SystemExit included
        log.debug("importing %s failed", name, exc_info=error)
        raise ApplicationError(f"{what}: {_why(name, error)}") from error


def _why(name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        if _current_folder() is None:
            return f"there is no module {error.name!r}, and the current folder was removed: {_ELSEWHERE}"
        return f"there is no module {error.name!r}: run this in the folder that holds it, or install it; {_FORM}"
    place = _place(error)
    where = f" at {place}" if place else ""
    return f"importing {name!r} raised {told(error)}{where}: mend that (BUSWORKER_LOG_LEVEL=debug shows the traceback)"


def _place(error: BaseException) -> str | None:
    """Where in the application it happened: the innermost frame that is neither ours nor a library's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_library(frame.filename)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else None


def _is_library(file: str) -> bool:
    folders = (_OURS, sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    if file.startswith("<") or any(file.startswith(folder + os.sep) for folder in folders):
        return True
    # A virtual environment may lie within the application's folder, but no application in the library's.
    return file.startswith(sysconfig.get_path("stdlib") + os.sep)


def _bus(module: ModuleType, attribute: str) -> Bus:
    value: object = module
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError as error:
            raise ApplicationError(
                f"module {module.__name__!r} has no attribute {attribute!r}; {_others(module)}"
            ) from error
        except Exception as error:  # a module's own __getattr__ may raise anything
            log.debug("%s:%s", module.__name__, attribute, exc_info=error)
            raise ApplicationError(
                f"application {module.__name__}:{attribute}: looking that up raised {told(error)}: mend that"
            ) from error
    if not isinstance(value, Bus):
        raise ApplicationError(f"{module.__name__}:{attribute} is {_kind(value)} and no Bus; {_others(module)}")
    return value


def _others(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, Bus)]
    if names:
        return "use " + " or ".join(f"{module.__name__}:{name}" for name in names)
    return 'make one there: bus = Bus("name")'


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"


def _current_folder() -> Path | None:
    """None if it was removed, or can't be told."""
    try:
        return Path.cwd()
    except OSError:
        return None


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
