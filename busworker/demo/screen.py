"""What the demo shows while it runs, on stderr: a live table on a terminal, else a line for each step."""

from __future__ import annotations

import sys
import textwrap
import time
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from busworker.demo.ledger import Ledger

HEADS = ("SERVICE", "RECEIVED", "HANDLED", "RETRIED", "DEAD BY REASON", "LOST")
INDENT = " " * len("  0.0 s  ")
REFRESH = 0.2
"""Seconds from one picture to the next."""


class Screen:
    """The demo's progress. Use it as a context manager."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._begun = time.monotonic()
        self._drawn = 0.0
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Tells a step of the story."""
        line = f"{time.monotonic() - self._begun:5.1f} s  {text}"
        if self._live is None:
            print(line, file=sys.stderr, flush=True)  # noqa: T201
        else:
            self._live.console.print(
                wrapped(line, self._live.console.width), markup=False, highlight=False, soft_wrap=True
            )

    def refresh(self) -> None:
        """Draws the table again, if it is time to."""
        now = time.monotonic()
        if self._live is not None and now - self._drawn >= REFRESH:
            self._drawn = now
            self._live.update(_table(self._ledger), refresh=True)


def wrapped(line: str, width: int) -> str:
    """A step in lines that a terminal has room for, the text below the text; no word is broken."""
    return textwrap.fill(line, width, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)


def rows(ledger: Ledger) -> list[tuple[str, ...]]:
    """The table's rows, below `HEADS`."""
    return [
        (
            service,
            str(account.received),
            str(account.handled),
            str(account.retried),
            reasons(account.reasons),
            str(account.lost),
        )
        for service, account in ledger.accounts.items()
    ]


def reasons(counted: Counter[str]) -> str:
    """`4 exception, 1 crash`, or `0`."""
    ordered = sorted(((number, reason) for reason, number in counted.items()), key=lambda one: (-one[0], one[1]))
    return ", ".join(f"{number} {reason}" for number, reason in ordered) or "0"


def _table(ledger: Ledger) -> Table:
    # While it runs, what isn't handled yet is under way, not lost.
    table = Table(title=f"{len(ledger.published)} events published", title_justify="left")
    for head in (*HEADS[:-1], "UNDER WAY"):
        table.add_column(head, justify="left" if head in (HEADS[0], HEADS[4]) else "right")
    for row in rows(ledger):
        table.add_row(*row)
    return table
