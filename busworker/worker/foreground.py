"""One handler call in the foreground of a command: under no limit, without a broker, and nothing is settled."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from busworker.errors import DecodeError
from busworker.ipc import frames
from busworker.message import Delivery, Outgoing, own_headers_removed, read_envelope
from busworker.plain import told
from busworker.worker import attempt
from busworker.worker.attempt import Runner, described
from busworker.worker.limit import Look
from busworker.worker.port import WorkerPort

if TYPE_CHECKING:
    from collections.abc import Generator

    from busworker.bus import Bus
    from busworker.channel import Subscription


def check(subscription: Subscription, body: bytes) -> None:
    """Refuses a body that the handler isn't called with.

    Raises:
        DecodeError: it doesn't fit.
    """
    try:
        subscription.codec.decode(body)
    except DecodeError:
        raise
    except Exception as error:  # the event type's own checks (__post_init__) may raise anything
        raise DecodeError(f"the body doesn't fit its topic: {told(error)}") from error


def call(bus: Bus, channel: str, subscription: int, delivery: Delivery, published: Callable[[Outgoing], None]) -> None:
    """Calls the handler of a message as a worker does, with all hooks; what they raise leaves this.

    Args:
        bus: the application.
        channel: which of its channels.
        subscription: its number there.
        delivery: the message.
        published: gets each message that is published meanwhile, and goes nowhere else: at once what doesn't travel
            with the outcome, the rest when the handler has ended.

    Raises:
        DecodeError: the body doesn't fit; the handler is not called.
    """
    runner = Runner(bus, channel, lambda _: None, lambda: Look(time.monotonic(), 0.0))
    with _port(bus, published):
        for hook in bus.worker_start_hooks:
            runner.run_hook(hook)
        try:
            runner.call(_handout(subscription, delivery), published)
        finally:
            for hook in bus.worker_stop_hooks:
                runner.run_hook(hook)
            runner.close()


def raised(error: BaseException) -> tuple[str, TracebackType | None]:
    """The traceback of what a handler raised, without the calls that lead to it: as text, and for a debugger."""
    trace = _of_application(error.__traceback__)
    return described(error.with_traceback(trace)).traceback or "", trace


class _Shown:
    """Takes what is published at once."""

    def __init__(self, published: Callable[[Outgoing], None]) -> None:
        self._published = published

    def publish(self, outgoing: list[Outgoing], timeout: float) -> frames.Published:
        for one in outgoing:
            self._published(one)
        return frames.Published(0, None)


@contextmanager
def _port(bus: Bus, published: Callable[[Outgoing], None]) -> Generator[None]:
    bus.use_port(WorkerPort(_Shown(published), bus.publish_deadline))
    try:
        yield
    finally:
        bus.use_port(None)


def _handout(subscription: int, delivery: Delivery) -> frames.Handout:
    envelope = read_envelope(delivery)
    return frames.Handout(
        number=0,
        subscription=subscription,
        key=b"",
        id=envelope.id or "",
        topic=envelope.topic,
        attempt=envelope.attempt,
        published_at=envelope.published_at,
        correlation_id=envelope.correlation_id,
        headers=own_headers_removed(delivery.headers),
        body=delivery.body,
    )


def _of_application(trace: TracebackType | None) -> TracebackType | None:
    """From the first call on that is below ours; all of it if there is none."""
    found, frame = trace, trace
    while frame is not None:
        if frame.tb_frame.f_code.co_filename in (__file__, attempt.__file__):
            found = frame.tb_next or found
        frame = frame.tb_next
    return found
