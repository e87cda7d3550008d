"""`python -m docs.shown`: fills in the pages, or says where they differ."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping
from pathlib import Path

from docs.shown.helptexts import help_text, shown_command
from docs.shown.page import Step, filled, masked, steps
from docs.shown.session import Session

ROOT = Path(__file__).parents[2]


def main() -> int:
    """0; with --check or --broker 1 if something differs."""
    parser = argparse.ArgumentParser(prog="python -m docs.shown", description="Put the real output into the pages.")
    parser.add_argument("--check", action="store_true", help="change nothing; tell what differs, and exit with 1")
    parser.add_argument("--help-texts", action="store_true", help="only the help texts, which takes a second")
    parser.add_argument("--again", action="store_true", help="take the new run even if it says the same: after a merge")
    parser.add_argument("--broker", help="tell what differs on this bus, and change nothing")
    parser.add_argument("pages", nargs="*", type=Path, help="default: all")
    given = parser.parse_args()
    differences = 0
    for path in given.pages or pages():
        page = path.read_text()
        texts = help_texts(page)
        if not given.help_texts:
            texts |= session_texts(page, given.broker, again=given.again)
        if given.check or given.broker:
            differences += tell(path, page, texts)
        elif filled(page, texts) != page:
            path.write_text(filled(page, texts))
            sys.stdout.write(f"{path}: renewed\n")
    return 1 if differences else 0


def pages() -> list[Path]:
    """The README, and every page."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def help_texts(page: str) -> dict[int, str]:
    """The help texts that differ, by the first line of their blocks."""
    shown = ((step, shown_command(step.text)) for step in steps(page))
    texts = ((step, help_text(name)) for step, name in shown if name is not None)
    return {step.first: text for step, text in texts if text != step.text}


def session_texts(page: str, broker: str | None = None, *, again: bool = False) -> dict[int, str]:
    """All texts of the page's session in a new run, by the first line of their blocks.

    Returns:
        {} if they say the same, unless it is to be shown again.
    """
    if "<!-- shown" not in page:
        return {}
    session = Session(broker)
    try:
        texts = {step.first: text for step in steps(page) if (text := session.take(step)) is not None}
    finally:
        session.close()
    return texts if again or any(differing(step, texts) for step in steps(page)) else {}


def differing(step: Step, texts: Mapping[int, str]) -> list[str]:
    """The lines that differ in the new run, those of now with a `-`; of a help text, every difference counts."""
    before, after = step.text, texts.get(step.first, step.text)
    if shown_command(before) is None:
        pairs = masked(before, step.marks.varies), masked(after, step.marks.varies)
    else:
        pairs = before.splitlines(), after.splitlines()
    return [line for line in difflib.ndiff(*pairs) if line[0] in "+-"]


def tell(path: Path, page: str, texts: Mapping[int, str]) -> int:
    """Prints how the blocks differ; how many do."""
    found = [(step, lines) for step in steps(page) if (lines := differing(step, texts))]
    for step, lines in found:
        sys.stdout.write(f"{path}:{step.first + 1}: it prints something else\n")
        sys.stdout.writelines(f"  {line}\n" for line in lines)
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
