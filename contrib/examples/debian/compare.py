"""Compares what the services counted with the same counts made by awk from the index itself. Exit 0: equal.

Usage: compare.py [INDEX]   (default: `apt-cache dumpavail`)
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

AWK = r"""
BEGIN { RS = ""; FS = "\n" }
{
    section = "unknown"; size = 0; package = ""
    for (i = 1; i <= NF; i++) {
        if ($i ~ /^Package:/) package = $i
        if ($i ~ /^Section:/) { section = $i; sub(/^Section:[ \t]*/, "", section); sub(/[ \t]+$/, "", section) }
        if ($i ~ /^Installed-Size:/) { size = $i; sub(/^Installed-Size:[ \t]*/, "", size) }
    }
    if (package != "") { count[section]++; total[section] += size }
}
END { for (s in count) printf "%s\t%d\t%d\n", s, count[s], total[s] }
"""


def by_awk(index: str | None) -> tuple[dict[str, int], dict[str, int]]:
    """Packages and installed sizes by section."""
    source = f"cat '{index}'" if index else "apt-cache dumpavail"
    shell = subprocess.run(["sh", "-c", f"{source} | awk '{AWK}'"], capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in shell.stdout.splitlines()]
    return {row[0]: int(row[1]) for row in rows}, {row[0]: int(row[2]) for row in rows}


def by_service(folder: Path, name: str) -> dict[str, int]:
    """What a service has counted."""
    with sqlite3.connect(folder / f"{name}.db") as connection:
        return dict(connection.execute("SELECT section, amount FROM total"))


def main() -> int:
    """Prints the differences, and how often messages were executed."""
    folder = Path(os.environ.get("DEBIAN_OUTPUT", "debian-output"))
    counts, sizes = by_awk(sys.argv[1] if len(sys.argv) > 1 else None)
    different = 0
    for name, wanted in (("sections", counts), ("sizes", sizes)):
        found = by_service(folder, name)
        for section in sorted(wanted.keys() | found.keys()):
            if wanted.get(section, 0) != found.get(section, 0):
                different += 1
                print(f"{name}: {section}: awk {wanted.get(section, 0)}, busworker {found.get(section, 0)}")
    executions = [tuple(line.split(" ")[:2]) for line in (folder / "audit.log").read_text().splitlines()]
    ids = {message_id for message_id, _ in executions}
    packages = sum(counts.values())
    print(f"packages {packages}, audited {len(ids)}, executions beyond one per message {len(executions) - len(ids)}")
    uncharged = len(executions) - len(set(executions))
    print(f"executions with an attempt's number that had been used before (not charged): {uncharged}")
    equal = not different and len(ids) == packages and not uncharged
    print("equal" if equal else "DIFFERENT")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
