"""Prints the package index of a Debian machine as JSON, one document a line.

Reads `apt-cache dumpavail`, or the file given: paragraphs of `Field: value` lines, where a line that begins with a
blank continues the field before (deb822(5)).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path


def paragraphs(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """The fields of each paragraph, by their lower-case names; continuation lines are left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif not line[0].isspace():
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
    if fields:
        yield fields


def document(fields: dict[str, str]) -> dict[str, object]:
    """The event of a paragraph."""
    size = fields.get("installed-size", "")
    return {
        "package": fields["package"],
        "version": fields.get("version", ""),
        "section": fields.get("section", "unknown"),
        "installed_size": int(size) if size.isdigit() else 0,
    }


def main() -> None:
    """Prints a document for each package."""
    if len(sys.argv) > 1:
        with Path(sys.argv[1]).open(encoding="utf-8", errors="replace") as lines:
            print_all(lines)
        return
    with subprocess.Popen(["apt-cache", "dumpavail"], stdout=subprocess.PIPE, text=True, errors="replace") as index:
        assert index.stdout is not None
        print_all(index.stdout)


def print_all(lines: Iterable[str]) -> None:
    """Prints the documents of these lines."""
    for fields in paragraphs(lines):
        if "package" in fields:
            print(json.dumps(document(fields)))


if __name__ == "__main__":
    main()
