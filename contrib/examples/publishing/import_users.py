"""A script for cron: publishes a `user.registered` for each line of a file; its exit code says if all are stored.

Usage: import_users.py FILE   (one address a line)
"""

from __future__ import annotations

import sys
from pathlib import Path

from events import UserRegistered, user_registered

from busworker import Bus

bus = Bus("import", publish_deadline=30)


def main(path: Path) -> int:
    """Publishes all lines; those that aren't stored come back on stdout, to be imported again."""
    receipts = {}
    for address in path.read_text().split():
        # The same id whenever the file is imported again: handlers can tell that they had it.
        receipts[address] = bus.publish(user_registered, UserRegistered(address), id=f"import-{address}")
    bus.flush()  # until each is confirmed or has failed, which takes no longer than the deadline
    missing = {address: receipt for address, receipt in receipts.items() if receipt.state != "confirmed"}
    for address, receipt in missing.items():
        print(address)
        print(f"{address} is not stored ({receipt.state}): {receipt.error}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
