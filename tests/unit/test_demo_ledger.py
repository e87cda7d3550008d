"""The demo's reckoning: what counts as lost, and what doesn't."""

from pathlib import Path

import pytest

from busworker.demo.ledger import Ledger
from busworker.demo.record import BEGINS, CONFIRMED, ENDS, FOLDER, GROUP, PUBLISHER, write


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path


def test_an_event_that_nobody_handled_and_that_is_not_dead_is_lost(folder: Path) -> None:
    ledger = Ledger(folder)
    ledger.open("email")
    write(PUBLISHER, f"{GROUP} 0", f"{CONFIRMED} a", f"{CONFIRMED} b", f"{CONFIRMED} c")
    write("email", f"{BEGINS} a 1", f"{ENDS} a 1", f"{BEGINS} b 1")
    ledger.read()
    assert ledger.lost == 2
    account = ledger.accounts["email"]
    assert (account.received, account.handled, account.retried) == (2, 1, 0)
    account.bury([("c", "exception")])
    assert ledger.lost == 1
    write("email", f"{BEGINS} b 2", f"{ENDS} b 2")
    ledger.read()
    assert (ledger.lost, account.handled, account.retried) == (0, 2, 1)
    assert account.reasons == {"exception": 1}


def test_a_late_service_owes_only_the_groups_that_begin_after_it(folder: Path) -> None:
    ledger = Ledger(folder)
    write(PUBLISHER, f"{GROUP} 0", f"{CONFIRMED} a")
    ledger.open("campaign")
    write(PUBLISHER, f"{CONFIRMED} b", f"{GROUP} 1", f"{CONFIRMED} c")
    ledger.read()
    assert ledger.accounts["campaign"].expected == {"c"}
    assert ledger.reached(1)
    assert not ledger.reached(2)


def test_a_message_that_returned_once_and_died_later_is_dead_and_not_handled(folder: Path) -> None:
    ledger = Ledger(folder)
    ledger.open("email")
    write(PUBLISHER, f"{GROUP} 0", f"{CONFIRMED} a")
    write("email", f"{BEGINS} a 1", f"{ENDS} a 1", f"{BEGINS} a 2")
    ledger.read()
    ledger.accounts["email"].bury([("a", "crash")])
    assert (ledger.accounts["email"].handled, ledger.lost) == (0, 0)


def test_what_others_publish_on_the_bus_does_not_count(folder: Path) -> None:
    ledger = Ledger(folder)
    ledger.open("log")
    write(PUBLISHER, f"{GROUP} 0", f"{CONFIRMED} a")
    write("log", f"{BEGINS} a 1", f"{ENDS} a 1", f"{BEGINS} foreign 1", f"{ENDS} foreign 1")
    ledger.read()
    ledger.accounts["log"].bury([("foreign", "exception")])
    account = ledger.accounts["log"]
    assert (account.received, account.handled, account.reasons) == (1, 1, {})
