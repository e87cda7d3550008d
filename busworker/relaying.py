"""Sends what a spool keeps, in a thread of its own: connecting may take long, and no publisher waits for that."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from busworker.errors import BusworkerError
from busworker.log_fields import event

if TYPE_CHECKING:
    from busworker.broker.session import Session
    from busworker.spool import Spool

log = logging.getLogger("busworker.publisher")

PAUSE = 1.0
"""Seconds between two tries."""
CONFIRMS = 10.0
"""Seconds that the broker has to confirm what is sent at once."""
STOP = 2.0
"""Seconds for the thread to end; what it has not sent by then stays in the spool."""


class Relay:
    """Runs while the spool holds anything.

    Args:
        url: the broker.
        folder: the spool's.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._spool: Spool | None = None
        self._session: Session | None = None

    def wake(self) -> None:
        """Has it begin, unless it is at it."""
        if self._thread is None or not self._thread.is_alive():
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="busworker relay", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP)

    def forget(self) -> None:
        """In a forked child: connection, store and lock stay the parent's."""
        if self._session is not None:
            self._session.forget()
        if self._spool is not None:
            self._spool.forget()

    def _run(self) -> None:
        from busworker.spool import Spool

        spool = self._spool = Spool(self._folder)
        try:
            while not self._stopping.is_set() and spool.count():
                if not self._sent(spool):
                    self._stopping.wait(PAUSE)
            if not self._stopping.is_set():
                log.info("all that was kept in %s is sent", self._folder, extra=event("spool_sent"))
        except BusworkerError as error:  # of the spool: the sender tells, and wakes us again
            log.debug("the spool %s can't be read: %s", self._folder, error)
        finally:
            spool.close()
            self._give_up()

    def _sent(self, spool: Spool) -> int | None:
        """Sends some, and returns how many."""
        try:
            session = self._session or self._connected()
            session.keep_alive()
            return spool.relay(lambda outgoing: session.publish(outgoing, CONFIRMS))
        except BusworkerError as error:
            log.debug("the spool %s can't be sent: %s", self._folder, error)
            self._give_up()
            return None

    def _connected(self) -> Session:
        from busworker.broker.session import open_session

        self._session = open_session(self._url, heartbeats=True)
        self._session.declare()
        return self._session

    def _give_up(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
