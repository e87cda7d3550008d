"""Kill -9 before each step of what a process does with an embedded store: each SQL statement, and each file it touches.

Whatever the step: the store is whole, holds what it held before or what it should hold after, and works at once.
"""

import subprocess
import sys
from contextlib import closing

import apsw
import pytest

from tests.faults.store_scenarios import SCENARIOS, Bus
from tests.support import Home
from tests.support.whole import consistent

FEWEST = 8
"""Steps of the shortest scenario: fewer would mean that they aren't seen any more."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_process_killed_at_any_step_leaves_the_store_as_it_was_or_as_it_should_be(name: str, home: Home) -> None:
    # A process without threads, which may fork; the tests' own may have some.
    command = [sys.executable, "-m", "tests.faults.store_scenarios", name, str(home.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > FEWEST


@pytest.mark.parametrize(
    "harm",
    [
        "INSERT INTO ready SELECT queue, 1, seq, 0 FROM ready",
        "INSERT INTO expiry SELECT 5, seq, 0 FROM ready",
        "INSERT INTO depth VALUES (77, 0, 0)",
        "INSERT INTO listener VALUES (77, 'wake/x')",
        "UPDATE depth SET ready = 7",
        "INSERT INTO claimer(path) VALUES ('claims/x')",
    ],
)
def test_the_check_of_a_store_finds_what_is_wrong(home: Home, harm: str) -> None:
    bus = Bus(home.path)
    script = "import sys; from tests.faults.store_scenarios import *; three(Bus(Path(sys.argv[1])))"
    subprocess.run([sys.executable, "-c", script, str(home.path)], timeout=30, check=True)
    consistent(bus.folder, unused=True)
    with closing(apsw.Connection(str(bus.folder / "bus.db"))) as database:
        database.execute(harm)
    with pytest.raises(AssertionError, match="isn't whole"):
        consistent(bus.folder, unused=True)
