"""The service `email`: greets new users, and comes to grief in every way an address can ask for."""

from __future__ import annotations

import ctypes
import time

from busworker import Bus, Message, RetryPolicy
from busworker.demo.events import UserRegistered, user_registered
from busworker.demo.record import executing

bus = Bus("email")
bus.around_attempt(executing)
welcome = bus.channel("welcome", processes=2)


@welcome.subscribe(user_registered, time_limit=1.5, kill_after=1, retry=RetryPolicy(max_attempts=3, delays=(1,)))
def send_welcome_mail(event: UserRegistered, message: Message) -> None:
    """Sends a welcome mail, or does what the address says."""
    match event.email.partition("+")[0]:
        case "flaky" if message.attempt == 1:
            raise ConnectionError("the mail server hung up")
        case "broken":
            raise ValueError(f"no mail can be sent to {event.email}")
        case "segfault":
            ctypes.string_at(0)
        case "slow":
            time.sleep(0.2)
        case "hang":
            time.sleep(3600)
        case _:
            pass
