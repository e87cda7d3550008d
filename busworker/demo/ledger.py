"""What became of every event, from what the publisher and the handlers wrote down and from the dead letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from busworker.demo.record import BEGINS, CONFIRMED, PUBLISHER, records


class Account:
    """One service: the events that must reach it, the executions it wrote down, and its dead letters.

    Args:
        published: what the demo has published, which grows; another publisher's events on the same bus don't count.
    """

    def __init__(self, published: set[str]) -> None:
        self._published = published
        self._executions: Counter[str] = Counter()
        self._returned: set[str] = set()
        self._dead: dict[str, str] = {}
        self.expected: set[str] = set()
        self.bound = False

    def note(self, line: str) -> None:
        """Takes up what a handler wrote down."""
        what, message_id, _attempt = line.split()
        if what == BEGINS:
            self._executions[message_id] += 1
        else:
            self._returned.add(message_id)

    def bury(self, dead: Iterable[tuple[str, str]]) -> None:
        """Takes up all its dead letters, as (id, reason)."""
        self._dead = dict(dead)

    @property
    def received(self) -> int:
        """Events of which at least one execution began."""
        return len(self._executions.keys() & self._published)

    @property
    def handled(self) -> int:
        """Events whose handler returned, and that aren't dead."""
        return len((self._returned & self._published) - self._dead.keys())

    @property
    def retried(self) -> int:
        """Events that were executed more than once."""
        return sum(number > 1 for one, number in self._executions.items() if one in self._published)

    @property
    def reasons(self) -> Counter[str]:
        """How many are dead, by reason."""
        return Counter(reason for one, reason in self._dead.items() if one in self._published)

    @property
    def lost(self) -> int:
        """Events that must have come and are neither handled nor dead."""
        return len(self.expected - self._returned - self._dead.keys())


class Ledger:
    """The accounts of all services, and what was published."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._publisher = _Tail(records(folder, PUBLISHER))
        self._tails: dict[str, _Tail] = {}
        self.group = -1
        self.published: set[str] = set()
        self.accounts: dict[str, Account] = {}

    def open(self, service: str) -> None:
        """Begins the account of a service that is bound by now.

        What is published from now on must reach it: the events of the groups that begin after this. Those of a group
        that is under way may have been stored before the service was bound.
        """
        self.read()
        self._tails[service] = _Tail(records(self._folder, service))
        self.accounts[service] = Account(self.published)

    def reached(self, group: int) -> bool:
        """Whether the publisher has begun a group."""
        return self.group >= group

    def read(self) -> None:
        """Takes up what was written down since the last time."""
        for line in self._publisher.lines():
            self._note_published(line)
        for service, tail in self._tails.items():
            for line in tail.lines():
                self.accounts[service].note(line)

    @property
    def lost(self) -> int:
        """Over all services."""
        return sum(account.lost for account in self.accounts.values())

    def _note_published(self, line: str) -> None:
        what, value = line.split()
        if what == CONFIRMED:
            self.published.add(value)
        else:
            self.group = int(value)
        for account in self.accounts.values():
            account.bound = account.bound or what != CONFIRMED
            if account.bound and what == CONFIRMED:
                account.expected.add(value)


class _Tail:
    """The lines that were added to a file since it was last asked. The file may not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def lines(self) -> list[str]:
        """The new complete lines."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.decode().splitlines()
