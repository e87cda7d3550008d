"""Notes what was executed: one line an execution in `SERVICE.jsonl`, in the folder `SIGNUP_OUTPUT`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from busworker import Message


def record(message: Message) -> None:
    """Appends one line by one write, so that workers never mix their lines (write(2), O_APPEND)."""
    folder = Path(os.environ.get("SIGNUP_OUTPUT", "signup-output"))
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"id": message.id, "attempt": message.attempt, "pid": os.getpid()}) + "\n"
    path = folder / f"{message.channel.split('.')[0]}.jsonl"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
