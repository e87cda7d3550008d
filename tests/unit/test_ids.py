"""Ids that tell when they were made."""

import uuid

import pytest

from busworker.ids import Ids, made_at


def test_an_id_is_a_uuid_of_version_7_that_tells_its_milliseconds() -> None:
    id = Ids().new(1_700_000_000.1239)
    assert uuid.UUID(id).hex == id
    assert (uuid.UUID(id).version, uuid.UUID(id).variant) == (7, uuid.RFC_4122)
    assert made_at(id, 1_700_000_000) == 1_700_000_000.123


def test_ids_differ_within_a_millisecond_and_between_processes() -> None:
    one, other = Ids(), Ids()
    made = [ids.new(1_700_000_000.0) for ids in (one, other) for _ in range(1000)]
    assert len(set(made)) == len(made)
    assert made[:1000] == sorted(made[:1000])


@pytest.mark.parametrize(
    "id",
    [
        "",
        "order-42",
        uuid.uuid4().hex,
        Ids().new(1_600_000_000.5),  # it was made at another time: a replay of an old one by another program
        "x" * 12 + "7" + "0" * 19,
    ],
    ids=["none", "own", "random", "another time", "no number"],
)
def test_of_other_ids_the_timestamp_is_told(id: str) -> None:
    assert made_at(id, 1_700_000_000) == 1_700_000_000
