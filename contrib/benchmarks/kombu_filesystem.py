"""kombu's own filesystem transport beside ours, by the same program, in one run.

    python contrib/benchmarks/kombu_filesystem.py [--backlogs 500,5000,20000] [--messages 500] [--folder /var/tmp]

One connection publishes a backlog and consumes `--messages` of it with a prefetch of 10, acknowledging each. Ours syncs
each publish and each acknowledgement (and once without: `?durability=normal`); kombu's syncs nothing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import kombu

OURS = "busworker.transports:FilesystemTransport"


def connection(name: str, folder: Path) -> kombu.Connection:
    """A connection of one kind to a store of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "kombu's":
        options = {"data_folder_in": str(folder), "data_folder_out": str(folder), "control_folder": str(folder / "c")}
        return kombu.Connection("filesystem://", transport_options=options)
    query = "?durability=normal" if name == "ours, not synced" else ""
    return kombu.Connection(f"filesystem://{folder}{query}", transport=OURS)


def rates(name: str, folder: Path, backlog: int, count: int) -> tuple[float, float]:
    """Messages a second published and consumed."""
    with connection(name, folder) as one, one.SimpleQueue("work") as queue:
        begun = time.perf_counter()
        for number in range(backlog):
            queue.put({"user_id": number, "email": "somebody@example.org", "note": "x" * 92})
        published = backlog / (time.perf_counter() - begun)
        done = 0

        def handle(_: Any, message: Any) -> None:
            nonlocal done
            done += 1
            message.ack()

        with one.Consumer([kombu.Queue("work")], callbacks=[handle], prefetch_count=10):
            begun = time.perf_counter()
            while done < count:
                one.drain_events(timeout=10)
            return published, done / (time.perf_counter() - begun)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backlogs", default="500,5000,20000")
    parser.add_argument("--messages", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, folder, backlog = given.one
        print(*rates(name, Path(folder), int(backlog), min(int(backlog), given.messages)))
        return
    folder = Path(tempfile.mkdtemp(prefix="kombu-", dir=given.folder))
    print(f"{'backlog':>10}  {'transport':18}{'publish':>12}{'consume':>12}")
    try:
        for backlog in map(int, given.backlogs.split(",")):
            for name in ("kombu's", "ours", "ours, not synced"):
                place = folder / f"{name.replace(' ', '-')}-{backlog}"
                # A process for each: kombu's takes a second folder of one process for the first.
                one = [__file__, "--messages", str(given.messages), "--one", name, str(place), str(backlog)]
                found = subprocess.run([sys.executable, *one], capture_output=True, text=True, check=True).stdout
                published, consumed = map(float, found.split())
                print(f"{backlog:>10,}  {name:18}{published:>10,.0f}/s{consumed:>10,.0f}/s", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
