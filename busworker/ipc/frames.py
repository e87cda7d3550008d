"""What our processes say to each other, and how it becomes bytes. No sockets.

A frame is a length (4 bytes, network order) and a MessagePack array whose first element names its type. All processes
of a tree run the same code, so frames carry no version.

```
supervisor → consumer   WorkerAdded (+ descriptor)  WorkerRetired  ProcessDied  Drain  CountsWanted  Pause  Resume
consumer → supervisor   Ready  Troubled  CountsTold  WorkerDone  Drained  Paused
consumer → worker       Handout  Published  Finish
worker → consumer       Finished  PublishNow  Leaving
worker → supervisor     Started  Begun
```
"""

from __future__ import annotations

import struct
from typing import Literal, TypeAlias

import msgspec

from busworker.errors import ProtocolError
from busworker.message import Headers, Outgoing
from busworker.outcome import Outcome

MAX_FRAME = 512 * 1024 * 1024
"""Bytes; what a handler publishes in one attempt must fit."""

Cause: TypeAlias = Literal["died", "time_limit", "memory_limit", "stopped"]


class WorkerAdded(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """A worker is there; the descriptor that comes along is the consumer's end of its link."""

    slot: int
    incarnation: int
    pid: int


class WorkerRetired(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Hand nothing more to this worker and let it finish (scale down, recycling, rolling restart)."""

    slot: int
    incarnation: int


class ProcessDied(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """The supervisor has reaped a worker.

    `cause` is why it died: by itself, or because the supervisor killed it for the message with `number` (a limit) or
    to stop it. `details` is a sentence for the dead letter, `traceback` the Python stack at the end if one was left.
    """

    slot: int
    incarnation: int
    pid: int
    signal: str | None
    exit_code: int | None
    cause: Cause
    number: int = 0
    details: str = ""
    traceback: str | None = None
    rss: int | None = None


class Drain(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Stop fetching, let finish what executes, give the rest back, then say `Drained` and exit."""


class CountsWanted(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """Answer with `CountsTold` of the same request."""

    request: int


class Pause(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """Take no more messages and give back what only waits; what executes goes on. Say `Paused`."""


class Resume(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """Take messages again."""


class Ready(msgspec.Struct, array_like=True, frozen=True, tag=10):
    """Every subscription of the channel is bound and fetched from."""


class Troubled(msgspec.Struct, array_like=True, frozen=True, tag=11):
    """The broker can't be used; the consumer keeps trying unless `exit_code` says that trying is no use."""

    error: str
    exit_code: int | None = None


class LastError(msgspec.Struct, array_like=True, frozen=True):
    """An attempt that failed, or a message that became a dead letter without one: when (RFC 3339), and why."""

    at: str
    subscription: str
    message: str | None
    attempt: int
    max_attempts: int
    error: str


class CountsTold(msgspec.Struct, array_like=True, frozen=True, tag=12):
    """Messages of the channel, None where unknown; in_flight are those this consumer holds.

    `oldest` is when the first message that no worker has yet was published (Unix seconds; None: there is none, or
    nobody can tell), `rate` the executions a second.
    """

    request: int
    ready: int | None
    waiting: int | None
    dead: int | None
    in_flight: int
    oldest: int | None = None
    rate: float | None = None
    last_error: LastError | None = None


class WorkerDone(msgspec.Struct, array_like=True, frozen=True, tag=13):
    """A worker holds nothing any more and finishes: it was told to, or it leaves by itself and says why."""

    slot: int
    incarnation: int
    reason: str = ""


class Drained(msgspec.Struct, array_like=True, frozen=True, tag=14):
    """Nothing is held any more; the workers were told to finish, the consumer exits."""


class Paused(msgspec.Struct, array_like=True, frozen=True, tag=15):
    """From here on no message is handed to a worker."""


class Handout(msgspec.Struct, array_like=True, frozen=True, tag=20, gc=False):
    """A message for a worker. `number` counts the messages of its slot and names the scoreboard entry."""

    number: int
    subscription: int
    key: bytes
    id: str
    topic: str
    attempt: int
    published_at: int | None
    correlation_id: str | None
    headers: Headers
    body: bytes
    ready_at: int | None = None


class Published(msgspec.Struct, array_like=True, frozen=True, tag=21):
    """The answer to `PublishNow`: `error` is None when all is stored; `unknown`: it may be stored nevertheless."""

    request: int
    error: str | None
    unknown: bool = False


class Finish(msgspec.Struct, array_like=True, frozen=True, tag=22):
    """There is nothing more: run the stop hooks and exit."""


class Finished(msgspec.Struct, array_like=True, frozen=True, tag=30, gc=False):
    """How the attempt with that number ended, and how many seconds the handler took."""

    number: int
    seconds: float
    outcome: Outcome


class PublishNow(msgspec.Struct, array_like=True, frozen=True, tag=31):
    """Messages to publish at once, within so many seconds; answered by `Published`."""

    request: int
    outgoing: list[Outgoing]
    seconds: float


class Leaving(msgspec.Struct, array_like=True, frozen=True, tag=32):
    """The worker executes nothing more, whatever it was handed: it runs its stop hooks and exits."""

    reason: str


class Started(msgspec.Struct, array_like=True, frozen=True, tag=40):
    """The worker has run its start hooks and waits for messages."""


class Begun(msgspec.Struct, array_like=True, frozen=True, tag=41):
    """The worker begins a message while its slot is `unwatched`: look at it from now on."""


Frame: TypeAlias = (
    WorkerAdded | WorkerRetired | ProcessDied | Drain | CountsWanted | Pause | Resume
    | Ready | Troubled | CountsTold | WorkerDone | Drained | Paused
    | Handout | Published | Finish
    | Finished | PublishNow | Leaving
    | Started | Begun
)  # fmt: skip

_LENGTH = struct.Struct("!I")
_encoder = msgspec.msgpack.Encoder(enc_hook=str)
_decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytes:
    """The bytes of a frame. Header values that MessagePack doesn't know become text.

    Raises:
        ProtocolError: it is longer than `MAX_FRAME`.
    """
    try:
        body = _encoder.encode(frame)
    except (OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise ProtocolError(f"this can't be sent to another process: {error}") from error
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a frame of {len(body):,} bytes is over the limit of {MAX_FRAME:,}")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a stream of bytes into frames.

    Attributes:
        nonsense: what came after the frames that `feed` has returned; from then on it raises that.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.nonsense: ProtocolError | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete with these bytes.

        Raises:
            ProtocolError: these bytes are no frames of ours. Those before them have been returned.
        """
        if self.nonsense is not None:
            raise self.nonsense
        frames: list[Frame] = []
        if self._buffer:
            self._buffer += data
        try:
            read = _cut(self._buffer or data, frames)
        except ProtocolError as error:
            self.nonsense = error
            if not frames:
                raise
            return frames
        if self._buffer:
            del self._buffer[:read]
        else:
            self._buffer += data[read:]
        return frames


def _cut(data: bytes | bytearray, frames: list[Frame]) -> int:
    """Appends the complete frames; how many bytes they were."""
    start, end = 0, len(data)
    with memoryview(data) as view:
        while end - start >= 4:
            (length,) = _LENGTH.unpack_from(data, start)
            if length > MAX_FRAME:
                raise ProtocolError(f"a frame announces {length:,} bytes")
            stop = start + 4 + length
            if stop > end:
                break
            frames.append(_decoded(view[start + 4 : stop]))
            start = stop
    return start


def _decoded(body: memoryview) -> Frame:
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a frame can't be read: {error}") from error
