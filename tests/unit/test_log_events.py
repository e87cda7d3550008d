"""The names of events: docs/reference/logs.md lists each one that the code has, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from busworker.log_fields import FIELDS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "logs.md"


def named(tree: ast.AST) -> Iterator[str]:
    """The names that calls of `event` have for their first argument; where it is chosen there, all of them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("event", "_event"):
            names = [one.value for one in ast.walk(node.args[0]) if isinstance(one, ast.Constant)]
            assert names, f"an event without a name: {ast.unparse(node)}"
            yield from (name for name in names if isinstance(name, str))


def test_the_table_of_events_is_that_of_the_code() -> None:
    sources = (ROOT / "busworker").rglob("*.py")
    in_code = {name for path in sources for name in named(ast.parse(path.read_text()))}
    rows = re.findall(r"^\| `([a-z_]+)` \| ", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(in_code | {"log"})


def test_the_keys_of_a_record_are_those_of_the_page() -> None:
    keys = re.findall(r"^- `([a-z_]+)`: ", PAGE.read_text(), re.MULTILINE)
    assert keys == ["time", "level", *FIELDS, "role", "pid", "logger", "message", "exception"]
