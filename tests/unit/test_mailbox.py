"""A worker's end of its link, shared by threads."""

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from busworker.ipc import frames
from busworker.ipc.link import Link, pair
from busworker.worker.mailbox import Mailbox


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads that take turns after each few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_no_thread_sleeps_through_the_answer_that_another_has_read_for_it() -> None:
    ours, theirs = pair()
    worker, consumer = Link(ours, blocking=True), Link(theirs, blocking=True)
    mailbox = Mailbox(worker)
    waits: list[float] = []
    sending = threading.Lock()  # the last answer is still being sent when its reader goes on, and the order follows

    def publish() -> None:
        for _ in range(10_000):
            begun = time.monotonic()
            assert mailbox.publish([], 5.0).error is None
            waits.append(time.monotonic() - begun)

    def answer() -> None:
        while received := consumer.receive():
            for frame in received:
                assert isinstance(frame, frames.PublishNow)
                with sending:
                    consumer.send(frames.Published(frame.request, None))

    publishing, answering, reading = (threading.Thread(target=call) for call in (publish, answer, mailbox.next_order))
    for thread in (answering, reading, publishing):
        thread.start()
    publishing.join()
    with sending:
        consumer.send(frames.Finish())
    reading.join()
    worker.close()
    answering.join()
    consumer.close()
    assert len(waits) == 10_000
    assert max(waits) < 3.0
