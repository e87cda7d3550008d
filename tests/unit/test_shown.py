"""What the pages show of the commands; tests/cli/test_shown.py runs some of it, `tox -e shown` all."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from busworker.cli.commands import busworker
from docs.shown.__main__ import ROOT, help_texts, pages
from docs.shown.helptexts import command_names, shown_command
from docs.shown.page import Marks, Step, commands, filled, masked, parsed, renamed, span, steps, translated

PAGES = [*pages(), *sorted((ROOT / "contrib").rglob("*.md"))]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", pages(), ids=named)
def test_the_help_texts_of_a_page_are_those_of_the_commands(path: Path) -> None:
    assert help_texts(path.read_text()) == {}, "python -m docs.shown --help-texts puts them there"


def test_the_reference_has_the_help_text_of_every_command() -> None:
    reference = steps((ROOT / "docs" / "reference" / "cli.md").read_text())
    assert {shown_command(step.text) for step in reference} - {None} == set(command_names())


def told(path: Path) -> Iterator[str]:
    """The `busworker` commands in the blocks of a page."""
    for step in steps(path.read_text()):
        if step.language in ("console", "sh", "bash"):
            for line in re.sub(r"\\\n", "", step.text).splitlines():
                yield from re.findall(r"^(?:\$ )?(?:[\w./]*/)?busworker ([a-z].*)", line)


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_the_commands_of_a_page_exist_with_their_options(path: Path) -> None:
    for line in told(path):
        words = [word for word in shlex.split(line, comments=True) if word not in ("&", ";")]
        words = words[: next((n for n, word in enumerate(words) if word in ("<", ">", "|", "||", "&&")), None)]
        command: click.Command = busworker
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, line
            command = found
        known = {name for one in command.params for name in one.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"} <= known, line


PAGE = """
<!-- shown: file hello.py -->
```python
print("hello")
```

Text.

<!-- shown
$ mkdir there
until 'ready' varies '[0-9]+'
-->
```console
$ busworker start hello
old
```

<!-- shown: $ true -->

```text
left alone
```
"""


def test_a_page_is_read_as_steps() -> None:
    file, block, alone, last = steps(PAGE)
    assert file == Step(Marks(file="hello.py"), "python", 3, 4, 'print("hello")')
    assert block.marks == Marks(until="ready", varies="[0-9]+", unseen=("mkdir there",))
    assert commands(block.text) == [("busworker start hello", "old")]
    assert alone == Step(Marks(unseen=("true",)))
    assert last.text == "left alone"
    assert filled(PAGE, {block.first: "$ busworker start hello\nnew\nlines"}) == PAGE.replace("old", "new\nlines")
    assert parsed("<!-- shown: not run -->") == Marks(not_run=True)


def test_a_mark_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no mark: untill ready"):
        parsed("<!-- shown: untill ready -->")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2026-11-26T06:30:42.955Z INFO  x, pid 3", "2026-11-27T16:30:42.955Z INFO  x, pid 12345"),
        (
            "2026-11-26T06:30:42.955Z a\n2026-11-26T06:30:42.955Z b",
            "2026-11-26T06:30:42.955Z b\n2026-11-26T06:30:42.1Z a",
        ),
        ("A  OLDEST  RATE\na  0.5 s  0.2/s", "A  OLDEST  RATE\na  9.5 s   12/s"),
        ("a/1  1234  idle   0.4 s  22 MiB  -", "a/1  12345  idle   15 s  9 MiB  -"),
        ('  "rss": 5,\n  "pid": 7', '  "rss": 6,\n  "pid": 8'),
        ("0d351d7e8aa7c6b40000000000000001", "f2fc2d9d760e0d580000000000000001"),
    ],
)
def test_what_varies_is_nothing_else(one: str, other: str) -> None:
    assert masked(one) == masked(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a/1  1234  idle   0.4 s  22 MiB  -", "a/1  1234  executing   0.4 s  22 MiB  -"),
        ("a  600 s  5 s", "a  600 s  6 s"),
        ("lost 0", "lost 1"),
        ("again in 1 s", "again in 2 s"),
    ],
)
def test_what_does_not_vary_is_something_else(one: str, other: str) -> None:
    assert masked(one) != masked(other)


def test_the_lines_between_two_texts_are_shown_once_both_are_there() -> None:
    lines = ["a 1", "b 2", "a 3", "b 4"]
    assert span(lines, Marks()) == (0, 4)
    assert span(lines, Marks(begin="b", until="a")) == (1, 3)
    assert span(lines, Marks(begin="b", until="c")) is None
    assert span(lines, Marks(begin="c")) is None


def test_a_command_names_what_this_run_has_named() -> None:
    before = "0d351d7e8aa7c6b40000000000000001\na/1  1234  idle  0.4 s  1 MiB  -"
    now = "f2fc2d9d760e0d580000000000000001\na/1  5678  idle  0.4 s  1 MiB  -"
    assert translated("kill -9 1234", renamed(before, now)) == "kill -9 5678"
    assert translated("show 0d351d7e8aa7c6b40000000000000001", renamed(before, now)).endswith(
        "f2fc2d9d760e0d580000000000000001"
    )
