"""The web service of the story: it only publishes, and knows nobody who subscribes. A process of its own.

Usage: python -m busworker.demo.signup N

It publishes in groups, evenly over some seconds, and writes down where each group begins and each event that is
confirmed. The last fifth waits for a line on stdin: by then the demo has started its late service, while this process
ran on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from busworker import Bus, PublishFailed, Receipt
from busworker.demo.events import UserRegistered, user_registered
from busworker.demo.record import CONFIRMED, GROUP, PUBLISHER, write

GROUPS = 100
PACE = 0.05
"""Seconds from one group to the next."""
CONFIRM = 30.0


def address(user_id: int, total: int) -> str:
    """The e-mail address of a user: its first part says what becomes of the mail."""
    if total >= 20 and user_id in (total // 5, total // 2):
        return f"{'segfault' if user_id == total // 5 else 'hang'}+{user_id}@example.org"
    if user_id % 200 == 13:
        return f"broken+{user_id}@example.org"
    if user_id % 20 == 7:
        return f"flaky+{user_id}@example.org"
    return f"{'slow' if user_id % max(total // 50, 2) == 1 else 'user'}+{user_id}@example.org"


def main(total: int) -> int:
    """Publishes; the exit code is 1 if the bus didn't take an event."""
    bus = Bus("signup")
    begun = time.monotonic()
    groups = [range(total * n // GROUPS, total * (n + 1) // GROUPS) for n in range(GROUPS)]
    for number, group in enumerate(groups):
        if number == GROUPS * 4 // 5:
            sys.stdin.readline()
        time.sleep(max(0.0, begun + number * PACE - time.monotonic()))
        write(PUBLISHER, f"{GROUP} {number}")
        events = [UserRegistered(user_id, address(user_id, total)) for user_id in group]
        if not _confirmed([bus.publish(user_registered, event) for event in events]):
            return 1
    bus.close()
    return 0


def _confirmed(receipts: Sequence[Receipt]) -> bool:
    try:
        for receipt in receipts:
            write(PUBLISHER, f"{CONFIRMED} {receipt.wait(timeout=CONFIRM).id}")
    except (PublishFailed, TimeoutError) as error:
        print(f"signup: {error}", file=sys.stderr)  # noqa: T201  its log
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
