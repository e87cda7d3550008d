"""Whether an embedded store is whole: what SQLite says, what `check --store` says, and what neither looks at."""

import os
import stat
from contextlib import closing
from pathlib import Path

import apsw

from busworker.transports.engine import checkup
from busworker.transports.engine.location import Location

# What selects something is wrong. The checkup's own rules aren't repeated.
_NEVER = {
    "messages stand in two places of one kind": (
        "SELECT seq FROM (SELECT seq, 'ready' AS place FROM ready UNION ALL SELECT seq, 'claimed' FROM claimed "
        "UNION ALL SELECT seq, 'expiry' FROM expiry) GROUP BY seq, place HAVING count(*) > 1"
    ),
    "messages are claimed in another queue than their own": (
        "SELECT seq FROM claimed JOIN message USING (seq) WHERE claimed.queue <> message.queue"
    ),
    "due times contradict their messages": (
        "SELECT seq FROM expiry JOIN message USING (seq) JOIN ready USING (seq) "
        "WHERE due IS NOT expires OR expiry.rank <> ready.rank"
    ),
    "counts of no queue": "SELECT queue FROM depth WHERE queue NOT IN (SELECT id FROM queue)",
    "listeners to no queue": "SELECT queue FROM listener WHERE queue NOT IN (SELECT id FROM queue)",
}


def consistent(store: Path, *, unused: bool = False) -> None:
    """Fails, telling what is wrong with the store in that folder.

    Args:
        store: the folder. Others may be using it.
        unused: nobody is, and whoever died was cleared up after: then no claims, listeners or files of theirs may be
            left either.
    """
    found = checkup.check(Location(store, "full"))
    wrong = [*found.damage, *found.contradictions]
    with closing(apsw.Connection(str(store / "bus.db"), flags=apsw.SQLITE_OPEN_READWRITE)) as database:
        database.set_busy_timeout(10_000)
        queries = _NEVER | (_UNUSED if unused else {})
        wrong += [f"{rows} {what}" for what, query in queries.items() if (rows := database.execute(query).fetchall())]
    if unused:
        wrong += [f"left behind: {path}" for folder in ("claims", "wake") for path in (store / folder).iterdir()]
    assert wrong == [], "\n".join([f"{store} isn't whole:", *wrong])


_UNUSED = {
    "claimers, though nobody claims": "SELECT * FROM claimer",
    "listeners, though nobody listens": "SELECT * FROM listener",
}


def copy(store: Path, to: Path) -> None:
    """Copies a store that nobody writes to, FIFOs too, without the reserve, which is made anew."""
    to.mkdir(parents=True)
    for entry in store.iterdir():
        mode = entry.stat().st_mode
        if stat.S_ISDIR(mode):
            copy(entry, to / entry.name)
        elif stat.S_ISFIFO(mode):
            os.mkfifo(to / entry.name)
        elif entry.name != "reserve":
            (to / entry.name).write_bytes(entry.read_bytes())
