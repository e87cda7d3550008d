"""The web service of the story: it only publishes `user.registered`, and knows nobody who subscribes.

Usage: signup.py [N]   (default 10)
"""

from __future__ import annotations

import sys

from events import UserRegistered, user_registered

from busworker import Bus

bus = Bus("signup")
TROUBLE = {3: "flaky", 5: "broken", 7: "segfault", 9: "hang"}


def main(number: int) -> None:
    """Publishes, waits until everything is confirmed, and says how much it was."""
    receipts = []
    for user_id in range(number):
        name = TROUBLE.get(user_id, "user")
        event = UserRegistered(user_id, f"{name}+{user_id}@example.org")
        receipts.append(bus.publish(user_registered, event))
    confirmed = sum(receipt.wait(timeout=30).state == "confirmed" for receipt in receipts)
    print(f"{confirmed} of {number} events are stored")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
