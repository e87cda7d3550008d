"""Frames and links, on real socketpairs."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busworker import outcome as how
from busworker.errors import ProtocolError
from busworker.ipc import frames
from busworker.ipc.link import Link, pair
from busworker.message import Outgoing

EVERY = [
    frames.WorkerAdded(1, 2, 3),
    frames.ProcessDied(1, 2, 3, "SIGSEGV", None, "died"),
    frames.Drain(),
    frames.CountsTold(1, None, 2, 3, 4),
    frames.CountsTold(1, 2, 3, 4, 5, 1_760_000_000, 12.5, frames.LastError("2026-11-26", "a/b.c", "m", 1, 8, "dead")),
    frames.Handout(1, 0, b"k" * 16, "id", "a.b", 1, None, None, {"h": [1, {"x": b"y"}]}, b"{}"),
    frames.Finished(1, 0.5, how.Returned((Outgoing("e", "k", b"b", {"message_id": "i"}, {}, 2.0),))),
    frames.Finished(2, 0.5, how.Raised(how.Error("E", "m", "t"), 3.0)),
    frames.Finished(3, 0.5, how.Rejected(how.Error("E", "m"), "exception")),
    frames.PublishNow(1, [], 10.0),
    frames.Started(),
]


@given(st.lists(st.sampled_from(EVERY), max_size=8), st.integers(1, 50))
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(sent: list[frames.Frame], size: int) -> None:
    stream = b"".join(frames.encode(frame) for frame in sent)
    reader = frames.FrameReader()
    got = [frame for at in range(0, len(stream), size) for frame in reader.feed(stream[at : at + size])]
    assert got == sent


def test_a_header_value_that_has_no_form_in_a_frame_becomes_text() -> None:
    handout = frames.Handout(1, 0, b"k" * 16, "i", "t", 1, None, None, {"h": complex(1, 2)}, b"")
    (got,) = frames.FrameReader().feed(frames.encode(handout))
    assert isinstance(got, frames.Handout)
    assert got.headers == {"h": "(1+2j)"}
    dated = frames.Handout(1, 0, b"k" * 16, "i", "t", 1, None, None, {"h": datetime(2026, 1, 1, tzinfo=UTC)}, b"")
    assert frames.FrameReader().feed(frames.encode(dated))


@given(st.binary(min_size=8, max_size=64))
def test_nonsense_is_a_protocol_error_or_an_unfinished_frame_and_nothing_else(data: bytes) -> None:
    try:
        frames.FrameReader().feed(data)
    except ProtocolError:
        pass


def test_a_large_frame_and_a_descriptor_pass_a_link_that_never_blocks() -> None:
    left, right = (Link(end, descriptors=True) for end in pair())
    reading, writing = os.pipe()
    body = os.urandom(3_000_000)
    left.post(frames.WorkerAdded(1, 1, 1), reading)
    left.post(frames.Handout(1, 0, b"k" * 16, "i", "t", 1, None, None, {}, body))
    os.close(reading)
    got: list[frames.Frame] = []
    for _ in range(10_000):
        left.flush()
        got += right.receive()
        if len(got) == 2:
            break
    assert not left.unsent
    assert isinstance(got[1], frames.Handout)
    assert got[1].body == body
    os.write(writing, b"x")
    received = right.descriptors.popleft()
    assert os.read(received, 1) == b"x"
    os.close(received)
    os.close(writing)
    left.close()
    assert right.receive() == []
    assert right.closed
    right.send(frames.Started())  # nobody reads it, and nothing is raised
    right.close()


def test_what_was_sent_before_the_end_is_still_read() -> None:
    left, right = (Link(end) for end in pair())
    left.send(frames.Started())
    left.close()
    assert right.receive() == [frames.Started()]
    assert right.receive() == []
    assert right.closed
    right.close()


def test_an_outcome_that_cant_be_encoded_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ProtocolError):
        frames.encode(frames.Finished(1, 0.0, how.Raised(how.Error("E", "\ud800"))))
