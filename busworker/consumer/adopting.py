"""Takes over what pools without any process left had claimed. Runs in the consumer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from busworker.broker.session import Session
from busworker.consumer.intake import Intake
from busworker.ipc.scoreboard import Owed, Scoreboard
from busworker.log_fields import event

log = logging.getLogger("busworker.consumer")

EVERY = 5.0


class Adopting:
    """Looks for such pools every five seconds.

    Attributes:
        next_at: monotonic seconds of the next look.
    """

    def __init__(self) -> None:
        self.next_at = 0.0

    def adopt(self, session: Session, queues: Sequence[str], intake: Intake, now: float) -> None:
        """Releases their messages, and charges those that their scoreboards say were executing."""
        if now < self.next_at:
            return
        self.next_at = now + EVERY
        for path in session.abandoned(list(queues)):
            board = Scoreboard(Path(path), 0) if Path(path).exists() else None
            if board is not None and board.lock():
                intake.owe([*board.open_keys(), *Owed(board.path).keys])
            if board is None or board.lock():
                session.release(path)
                told = event("messages_taken_over")
                log.warning("took over the messages of a pool that is gone: %s", path, extra=told)
            if board is not None:
                board.close()
