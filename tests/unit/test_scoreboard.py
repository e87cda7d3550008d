"""The scoreboard and the owed attempts, on real files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from busworker.errors import ConfigurationError
from busworker.ipc.scoreboard import RING, Owed, Scoreboard
from busworker.supervisor.boards import open_board

KEY, OTHER = b"k" * 16, b"o" * 16


@pytest.fixture
def board(tmp_path: Path):
    board = Scoreboard(tmp_path / "c.board", 2)
    yield board
    board.close()


def test_closing_what_was_never_begun_opens_nothing(board: Scoreboard) -> None:
    board.open_entry(1, 1, KEY)
    board.close_entry(1, 1)
    board.close_entry(1, 1 + RING)  # the same entry, whose digest is still that of the message before
    board.close_entry(0, 1)
    assert board.open_keys() == []


def test_a_message_is_spared_only_while_the_entry_is_its_own(board: Scoreboard) -> None:
    board.open_entry(1, 1, KEY)
    board.spare(1, 1)
    assert board.open_keys() == []
    board.open_entry(1, 1 + RING, OTHER)
    board.close_entry(1, 1 + RING)
    board.spare(1, 1)
    assert board.open_keys() == [], "the other one was settled"


def test_an_entry_is_open_from_begin_until_the_consumer_closes_it_whatever_the_order(board: Scoreboard) -> None:
    board.begin(1, 1, KEY, "id", 5.0)
    assert board.open_keys() == [KEY]
    board.finish(1, 1, 2.0)
    assert board.open_keys() == [KEY]
    board.close_entry(1, 1)
    assert board.open_keys() == []
    board.begin(1, 2, OTHER, "id", 5.0)
    board.close_entry(1, 2)
    board.finish(1, 2, 2.0)
    assert board.open_keys() == []


def test_what_a_killed_process_was_executing_is_read_from_the_file(tmp_path: Path) -> None:
    program = (
        "import os, sys, pathlib; from busworker.ipc.scoreboard import Scoreboard\n"
        "board = Scoreboard(pathlib.Path(sys.argv[1]), 2); board.begin(0, 7, b'k' * 16, 'm7', 1.0)\n"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "c.board")], check=False)
    assert killed.returncode == -9
    board = Scoreboard(tmp_path / "c.board", 1)
    assert board.slots == 2
    assert board.open_keys() == [KEY]
    assert board.was_started(0, 7)
    assert not board.was_started(0, 8)
    assert board.view(0).message_id == "m7"
    board.wipe()
    assert board.open_keys() == []
    board.close()


def test_a_scoreboard_knows_whether_it_is_of_this_boot(board: Scoreboard) -> None:
    assert board.of_this_boot
    board.begin(0, 1, KEY, "m1", 5.0)
    write_boot(board.path)
    assert not board.of_this_boot
    assert board.open_keys() == [KEY], "what was open is known all the same"
    grown = Scoreboard(board.path, 4)
    assert not grown.of_this_boot, "growing it makes nothing new"
    grown.close()
    board.ensure(4)
    board.wipe()
    assert board.of_this_boot
    assert board.open_keys() == []


@pytest.mark.parametrize(("rebooted", "said"), [(False, "the service was killed"), (True, "the machine went down")])
def test_what_was_open_is_owed_after_a_reboot_too(
    board: Scoreboard, caplog: pytest.LogCaptureFixture, rebooted: bool, said: str
) -> None:
    board.occupy(0, 1, 4711)
    board.begin(0, 1, KEY, "m1", 5.0)
    board.write_deadline(0, 99.0)
    if rebooted:
        write_boot(board.path)
    opened = open_board(board.path, 2)
    assert f"1 messages were executing or unsettled when {said}" in caplog.text
    assert Owed(board.path).keys == {KEY}
    assert opened.scoreboard.of_this_boot
    assert (opened.scoreboard.deadline(0), opened.scoreboard.number(0)) == (0.0, 0)
    opened.scoreboard.close()
    os.close(opened.lock)


def write_boot(path: Path) -> None:
    """As if another boot had left the file."""
    with path.open("r+b") as file:
        file.seek(48)
        file.write(b"another boot's.."[:16])


def test_a_slot_shows_what_it_executes_and_nothing_when_idle(board: Scoreboard) -> None:
    board.occupy(0, 3, 4711)
    board.begin(0, 1, KEY, "ä" * 200, 12.5)
    board.write_deadline(0, 99.0)
    view = board.view(0)
    assert (view.number, view.since, view.deadline) == (1, 12.5, 99.0)
    assert view.message_id.startswith("ä" * 60)
    board.finish(0, 1, 2.0)
    assert (board.view(0).number, board.view(0).message_id, board.deadline(0)) == (0, "", 0.0)


def test_the_supervisor_tells_when_it_looked_last_and_how_long_it_was_away(board: Scoreboard) -> None:
    name = "i" * 200
    board.begin(1, 4, KEY, name, 5.0)
    board.write_turned(99.5, 60.5)
    assert board.turned() == (99.5, 60.5)
    assert board.view(1).message_id == name[:127]


def test_entries_are_used_again_after_a_ring(board: Scoreboard) -> None:
    for number in range(1, 2 * RING + 2):
        board.begin(0, number, KEY, "id", 0.0)
        board.finish(0, number, 2.0)
        board.close_entry(0, number)
    assert board.open_keys() == []


def test_more_slots_keep_what_is_there(board: Scoreboard) -> None:
    board.begin(1, 1, KEY, "id", 0.0)
    board.count(3, 1)
    board.ensure(20)
    assert board.slots == 20
    board.begin(19, 1, OTHER, "id", 0.0)
    assert board.open_keys() == [KEY, OTHER]
    assert board.counted() == (3, 1)


def test_the_lock_says_whether_a_process_of_the_pool_lives(board: Scoreboard) -> None:
    assert board.lock()
    second = Scoreboard(board.path, 1)
    assert not second.lock()
    second.close()


def test_a_file_that_is_no_scoreboard_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "c.board"
    path.write_text("x" * 100)
    with pytest.raises(ConfigurationError, match="remove it"):
        Scoreboard(path, 1)


def test_owed_keys_outlive_their_writer_until_they_are_charged(tmp_path: Path) -> None:
    path = tmp_path / "c.board"
    Owed(path).add([KEY, OTHER])
    Owed(path).add([KEY])
    assert Owed(path).keys == {KEY, OTHER}
    owed = Owed(path)
    owed.charged([KEY, b"x" * 16])
    assert Owed(path).keys == {OTHER}


def test_what_is_owed_and_cannot_be_written_down_stays_on_the_scoreboard(tmp_path: Path) -> None:
    board = Scoreboard(tmp_path / "c.board", 1)
    board.begin(0, 1, KEY, "id", 5.0)
    board.close()
    (tmp_path / "c.owed.new").mkdir()  # as good as a full disk
    with pytest.raises(ConfigurationError, match="can't be written down"):
        open_board(tmp_path / "c.board", 1)
    (tmp_path / "c.owed.new").rmdir()
    again = open_board(tmp_path / "c.board", 1)
    assert Owed(tmp_path / "c.board").keys == {KEY}
    again.scoreboard.close()
    os.close(again.lock)


def test_an_owed_key_that_cannot_be_removed_from_the_file_is_forgotten_all_the_same(tmp_path: Path) -> None:
    owed = Owed(tmp_path / "c.board")
    owed.add([KEY])
    (tmp_path / "c.owed.new").mkdir()
    owed.charged([KEY])
    assert owed.keys == set()
