"""The service `email`: greets new users. Its handler misbehaves for the addresses that the README names."""

from __future__ import annotations

import ctypes
import time

from events import UserRegistered, user_registered
from record import record

from busworker import Bus, Message, RetryPolicy

bus = Bus("email")
welcome = bus.channel("welcome", processes=2)


@welcome.subscribe(user_registered, time_limit=2, kill_after=1, retry=RetryPolicy(max_attempts=3, delays=(1,)))
def send_welcome_mail(event: UserRegistered, message: Message) -> None:
    """Sends a welcome mail, or does what the address says."""
    record(message)
    match event.email.split("+")[0]:
        case "flaky" if message.attempt == 1:
            raise ConnectionError("the mail server hung up")
        case "broken":
            raise ValueError(f"no mail can be sent to {event.email}")
        case "segfault":
            ctypes.string_at(0)
        case "hang":
            time.sleep(3600)
        case _:
            pass
