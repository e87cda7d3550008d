"""Pages as steps of a session, and which of their text is the same in another run. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

ID = r"\b[0-9a-f]{32}\b"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"
PID = r"(?:(?<=\bpid )|(?<=\"pid\": )|(?<=\bkill -9 ))\d+"
WORKER_ROW = re.compile(r"^(?P<worker>\S+/\d+ +)(?P<pid>\d+)(?P<state> +[a-z]+ +)(?:-|[\d.]+ \w+)(?= )", re.MULTILINE)

MASKS: tuple[tuple[str, str], ...] = (
    (TIME, "TIME"),
    (ID, "ID"),
    (PID, "PID"),
    (r"\b\d+ [KM]iB\b", "SIZE"),
    (r"(?<=\"rss\": )\d+", "SIZE"),
    (r"\b\d+\.\d s\b|(?<=, up )\d+ \w+$", "AGE"),
    (r"\b[\d.]+(?= ms\b|/s\b)", "NUMBER"),
    (r"(?<=\"rate\": )[\d.]+", "NUMBER"),
    (r"(busworker/[\w/]+\.py\\?\", line )\d+", r"\1LINE"),  # a line of our own in a traceback
    (r" {2,}", "  "),  # columns are as wide as what is in them
)
"""What differs from run to run, and what stands for it when two are compared."""


@dataclass(frozen=True)
class Marks:
    """What the comment before a block asks for; see the package."""

    file: str | None = None
    log: str | None = None
    begin: str | None = None
    until: str | None = None
    varies: str | None = None
    awaits: str | None = None
    not_run: bool = False
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """A block, if there is one, with its marks: `lines[first:end]` of the page are its text."""

    marks: Marks
    language: str = ""
    first: int = 0
    end: int = 0
    text: str = ""


def steps(page: str) -> list[Step]:
    """The blocks and marks of a page, in their order."""
    return list(_steps(page.splitlines()))


def _steps(lines: Sequence[str]) -> Iterator[Step]:
    marks, at = None, 0
    while at < len(lines):
        if lines[at].startswith("<!-- shown"):
            end = next(n for n in range(at, len(lines)) if lines[n].endswith("-->"))
            marks = parsed("\n".join(lines[at : end + 1]))
        elif lines[at].lstrip().startswith("```"):
            end = next(n for n in range(at + 1, len(lines)) if lines[n].strip() == "```")
            yield Step(marks or Marks(), lines[at].strip("` "), at + 1, end, "\n".join(lines[at + 1 : end]))
            marks = None
        else:
            end = at
            if marks is not None:
                yield Step(marks)
            marks = None
        at = end + 1
    if marks is not None:
        yield Step(marks)


def parsed(comment: str) -> Marks:
    """The marks of a comment.

    Raises:
        ValueError: one that there isn't.
    """
    marks = Marks()
    for line in comment.removeprefix("<!-- shown").removeprefix(":").removesuffix("-->").strip().splitlines():
        if line.strip().startswith("$ "):
            marks = replace(marks, unseen=(*marks.unseen, line.strip().removeprefix("$ ")))
        else:
            marks = _with(marks, shlex.split(line))
    return marks


def _with(marks: Marks, words: list[str]) -> Marks:
    match words:
        case []:
            return marks
        case ["not", "run", *rest]:
            return _with(replace(marks, not_run=True), rest)
        case ["from", text, *rest]:
            return _with(replace(marks, begin=text), rest)
        case [("file" | "log" | "until" | "varies" | "awaits") as name, text, *rest]:
            return _with(replace(marks, **{name: text}), rest)  # type: ignore[arg-type]
        case _:
            raise ValueError(f"no mark: {shlex.join(words)}")


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output below it."""
    _, *parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    found = [part.partition("\n") for part in parts]
    return [(command, output.rstrip("\n")) for command, _, output in found]


def span(lines: Sequence[str], marks: Marks) -> tuple[int, int] | None:
    """Which lines of an output are shown; None if the texts that the marks name aren't there (yet)."""
    begin = _find(lines, marks.begin, 0) if marks.begin else 0
    if begin is None or not marks.until:
        return None if begin is None else (begin, len(lines))
    last = _find(lines, marks.until, begin)
    return None if last is None else (begin, last + 1)


def _find(lines: Sequence[str], text: str, first: int) -> int | None:
    return next((n for n in range(first, len(lines)) if text in lines[n]), None)


def masked(text: str, varies: str | None = None) -> list[str]:
    """What two runs have in common. Lines of a log may come in another order."""
    text = WORKER_ROW.sub(r"\g<worker>PID\g<state>AGE", text)
    for pattern, name in (*MASKS, *([(varies, "VARIES")] if varies else [])):
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    lines = [line.rstrip() for line in text.splitlines()]
    if lines and all(line.startswith("TIME ") for line in lines if not line.startswith("$ ")):
        return sorted(re.sub(r"(worker [\w.-]+)/\d+", r"\1/N", line) for line in lines)
    return lines


def renamed(before: str, after: str) -> Mapping[str, str]:
    """The ids and pids of a text, with those that stand in the same places of another run's."""
    return dict(zip(_names(before), _names(after), strict=False))


def _names(text: str) -> list[str]:
    rows = [(found.start("pid"), found["pid"]) for found in WORKER_ROW.finditer(text)]
    others = [(found.start(), found[0]) for found in re.finditer(f"{ID}|{PID}", text)]
    return [name for _, name in sorted(rows + others)]


def translated(command: str, names: Mapping[str, str]) -> str:
    """A command with the ids and pids of this run."""
    return re.sub(r"\b\w+\b", lambda found: names.get(found[0], found[0]), command)


def filled(page: str, texts: Mapping[int, str]) -> str:
    """The page with other texts in some blocks, by their first line."""
    lines = page.splitlines()
    for step in reversed(steps(page)):
        if step.first in texts and step.end:
            lines[step.first : step.end] = texts[step.first].splitlines()
    return "\n".join(lines) + "\n"
