"""The scoreboard of a pool: a shared, preallocated file that says what each worker is executing.

It outlives its processes: whoever comes next reads which messages were open and charges those, and only those. Every
field has one writer. Each eight-byte field is written by one aligned store, so a reader never sees half of it.

```
header   magic, slots, ring, boot id; processed, failed                        counters: the consumer
         turned, away                                                          the supervisor
slot     incarnation, pid                                                      the supervisor
         number, deadline, since, message id, begun                            the worker
         rss, unwatched                                                        the supervisor
entry    digest, worker's field (2 x number + finished), consumer's (number)   worker / consumer
```
The entry of message `number` is `number % ring`. It is open from the worker's first write until the consumer has
written the same number, whatever the order of the writes, and only then used again; numbers only grow. One that was
never begun is closed too: the worker's field then holds a lower number. After a reboot the entries still
say which messages were open, but pids and deadlines mean nothing any more: wipe it before they are read.
"""

from __future__ import annotations

import fcntl
import functools
import mmap
import os
import struct
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from busworker.errors import ConfigurationError
from busworker.message import KEY_BYTES

MAGIC = b"BWBOARD2"
RING = 1000 + 256
"""Entries of a slot: the most that may be executed at a time, and as many as may be finished and unsettled."""
HEADER_BYTES = 128
SLOT_HEADER_BYTES = 256
ENTRY_BYTES = 32
SLOT_BYTES = SLOT_HEADER_BYTES + RING * ENTRY_BYTES
ID_BYTES = 128

_U64 = struct.Struct("@Q")  # native: one aligned store; "=Q" and "<Q" write byte by byte
_F64 = struct.Struct("@d")
_HEADER = struct.Struct("@8sQQ")
_TURNED, _PROCESSED, _FAILED = 24, 32, 40
_BOOT, _BOOT_BYTES = 48, 16
_AWAY = 64
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # a UUID, new at each boot (random(4))
_INCARNATION, _PID, _NUMBER, _DEADLINE, _SINCE, _RSS, _ID = 0, 8, 16, 24, 32, 40, 48
_BEGUN, _UNWATCHED = _ID + ID_BYTES, _ID + ID_BYTES + 8
_WORKER_FIELD, _CONSUMER_FIELD = 16, 24


class SlotView(msgspec.Struct, frozen=True):
    """What a slot says now.

    `number` is 0 when the worker is idle. `deadline` (0: none) and `begun`, when it began what it executes, are
    monotonic seconds; `since` is Unix time.
    """

    number: int
    deadline: float
    begun: float
    since: float
    message_id: str
    rss: int


class Scoreboard:
    """One pool's scoreboard.

    Args:
        path: the file; created with `slots` slots, or taken over as it is when it is a scoreboard already.
        slots: how many workers it must have room for at least.

    Raises:
        ConfigurationError: the file is no scoreboard, or can't be made.
    """

    def __init__(self, path: Path, slots: int) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._map = self._mapped(slots)
        except OSError as error:
            raise ConfigurationError(
                f"the scoreboard {path} can't be used ({error.strerror}): make room or make it writable"
            ) from error

    def lock(self) -> bool:
        """Takes the pool's lock, which every process that inherits this descriptor holds as well (flock(2)).

        Returns:
            False: some process of that pool still lives.
        """
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Lets go of the file; the lock is given up once no other process holds it."""
        self._map.close()
        os.close(self._file)

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return (len(self._map) - HEADER_BYTES) // SLOT_BYTES

    def ensure(self, slots: int) -> None:
        """Makes room for more slots, or maps those that the supervisor has added."""
        if slots > self.slots:
            old, self._map = self._map, self._mapped(slots)  # on a full disk the old one stays
            old.close()

    # The supervisor writes.

    def occupy(self, slot: int, incarnation: int, pid: int) -> None:
        """A new worker has the slot; its open entries stay until the consumer closes them."""
        base = self._base(slot)
        for offset, value in ((_INCARNATION, incarnation), (_PID, pid), (_NUMBER, 0), (_RSS, 0), (_UNWATCHED, 0)):
            _U64.pack_into(self._map, base + offset, value)
        _F64.pack_into(self._map, base + _DEADLINE, 0.0)

    def write_turned(self, now: float, away: float) -> None:
        """Monotonic seconds of the supervisor's last turn, and those that it was away in all: no limit counts them."""
        _F64.pack_into(self._map, _AWAY, away)
        _F64.pack_into(self._map, _TURNED, now)

    def write_rss(self, slot: int, rss: int) -> None:
        """Bytes the worker's process has resident."""
        _U64.pack_into(self._map, self._base(slot) + _RSS, rss)

    def write_unwatched(self, slot: int, unwatched: bool) -> None:
        """Whether the supervisor looks rarely, as at an idle worker: then the worker says that it begins a message."""
        _U64.pack_into(self._map, self._base(slot) + _UNWATCHED, unwatched)

    def open_keys(self) -> list[bytes]:
        """The digests of all open entries: what was executing, or finished and not settled."""
        return [
            bytes(self._map[at : at + KEY_BYTES])
            for slot in range(self.slots)
            if self._was_used(slot)
            for number in range(RING)
            if self._is_open(at := self._entry(slot, number))
        ]

    def spare(self, slot: int, number: int) -> None:
        """That message isn't to be charged, and its consumer is dead. Nothing if its entry is another's by now."""
        if self.was_started(slot, number):
            self.close_entry(slot, number)

    def wipe(self) -> None:
        """Closes every entry and empties every slot; for a supervisor with no process of the pool left."""
        self._map[HEADER_BYTES:] = bytes(len(self._map) - HEADER_BYTES)
        self._map[_BOOT : _BOOT + _BOOT_BYTES] = boot_id()

    # The worker writes.

    def begin(self, slot: int, number: int, key: bytes, message_id: str, now: float) -> None:
        """Opens the entry of a message and shows it as what the slot executes."""
        self.open_entry(slot, number, key)
        self.show(slot, number, message_id, now, time.monotonic())

    def open_entry(self, slot: int, number: int, key: bytes) -> None:
        """The message executes. The digest is there before the field that makes it count."""
        at = self._entry(slot, number)
        self._map[at : at + KEY_BYTES] = key
        _U64.pack_into(self._map, at + _WORKER_FIELD, number << 1)

    def show(self, slot: int, number: int, message_id: str, since: float, begun: float) -> None:
        """What the slot executes: of several messages the one whose deadline is next."""
        base, board = self._base(slot), self._map
        name = message_id.encode("utf-8", "replace")[: ID_BYTES - 1]
        board[base + _ID : base + _ID + len(name) + 1] = name + b"\0"
        _F64.pack_into(board, base + _SINCE, since)
        _F64.pack_into(board, base + _BEGUN, begun)
        _U64.pack_into(board, base + _NUMBER, number)

    def write_deadline(self, slot: int, deadline: float) -> None:
        """Monotonic seconds at which the supervisor kills the worker; 0: never."""
        _F64.pack_into(self._map, self._base(slot) + _DEADLINE, deadline)

    def finish(self, slot: int, number: int, now: float) -> None:
        """The outcome of the message has been sent, and nothing executes any more."""
        base = self._base(slot)
        _F64.pack_into(self._map, base + _DEADLINE, 0.0)
        _F64.pack_into(self._map, base + _SINCE, now)
        _U64.pack_into(self._map, base + _NUMBER, 0)
        self.finish_entry(slot, number)

    def finish_entry(self, slot: int, number: int) -> None:
        """The outcome of the message has been sent."""
        _U64.pack_into(self._map, self._entry(slot, number) + _WORKER_FIELD, number << 1 | 1)

    # The consumer writes.

    def close_entry(self, slot: int, number: int) -> None:
        """The message is settled, or about to be given back."""
        _U64.pack_into(self._map, self._entry(slot, number) + _CONSUMER_FIELD, number)

    def count(self, processed: int, failed: int) -> None:
        """Adds to the executions that returned, and to the charged ones that didn't."""
        done, bad = self.counted()
        _U64.pack_into(self._map, _PROCESSED, done + processed)
        _U64.pack_into(self._map, _FAILED, bad + failed)

    # Anybody reads.

    @property
    def of_this_boot(self) -> bool:
        """Whether it was written since the machine was booted, so that its pids and deadlines mean something."""
        return bytes(self._map[_BOOT : _BOOT + _BOOT_BYTES]) == boot_id()

    def counted(self) -> tuple[int, int]:
        """Executions that returned, and charged ones that didn't, since the service started."""
        return self._read(_PROCESSED), self._read(_FAILED)

    def reset_counts(self) -> None:
        """Sets the counters back, when a service starts."""
        _U64.pack_into(self._map, _PROCESSED, 0)
        _U64.pack_into(self._map, _FAILED, 0)

    def was_started(self, slot: int, number: int) -> bool:
        """Whether the worker of the slot ever began that message."""
        return self._read(self._entry(slot, number) + _WORKER_FIELD) >> 1 == number

    def pids(self) -> set[int]:
        """The workers' pids, or those that they had if they have died since."""
        return {self._read(self._base(slot) + _PID) for slot in range(self.slots)} - {0}

    def view(self, slot: int) -> SlotView:
        """What the slot says now."""
        base, board = self._base(slot), self._map
        number = self._read(base + _NUMBER)
        name = bytes(board[base + _ID : base + _ID + ID_BYTES]).split(b"\0", 1)[0] if number else b""
        return SlotView(
            number=number,
            deadline=self.deadline(slot),
            begun=self.begun(slot),
            since=_F64.unpack_from(board, base + _SINCE)[0],
            message_id=name.decode("utf-8", "replace"),
            rss=self._read(base + _RSS),
        )

    def deadline(self, slot: int) -> float:
        """The slot's deadline alone, for the supervisor's many looks."""
        return float(_F64.unpack_from(self._map, self._base(slot) + _DEADLINE)[0])

    def begun(self, slot: int) -> float:
        """Monotonic seconds at which the slot's worker began what it executes."""
        return float(_F64.unpack_from(self._map, self._base(slot) + _BEGUN)[0])

    def unwatched(self, slot: int) -> bool:
        """Whether the supervisor looks rarely at this slot."""
        return bool(self._read(self._base(slot) + _UNWATCHED))

    def turned(self) -> tuple[float, float]:
        """Monotonic seconds of the supervisor's last turn, and the seconds that it was away in all."""
        return _F64.unpack_from(self._map, _TURNED)[0], _F64.unpack_from(self._map, _AWAY)[0]

    def number(self, slot: int) -> int:
        """The number of the message the slot executes; 0: idle."""
        return self._read(self._base(slot) + _NUMBER)

    def _mapped(self, slots: int) -> mmap.mmap:
        size = os.fstat(self._file).st_size
        if size and (size < HEADER_BYTES or os.pread(self._file, 8, 0) != MAGIC):
            raise ConfigurationError(f"{self.path} is no scoreboard of this version: remove it and start again")
        wanted = HEADER_BYTES + slots * SLOT_BYTES
        if size < wanted:
            # A sparse page on a full disk would be SIGBUS at its first write (mmap(2)).
            os.posix_fallocate(self._file, 0, wanted)
            os.pwrite(self._file, _HEADER.pack(MAGIC, slots, RING), 0)
            if not size:
                os.pwrite(self._file, boot_id(), _BOOT)
        return mmap.mmap(self._file, max(size, wanted))

    def _base(self, slot: int) -> int:
        return HEADER_BYTES + slot * SLOT_BYTES

    def _entry(self, slot: int, number: int) -> int:
        return HEADER_BYTES + slot * SLOT_BYTES + SLOT_HEADER_BYTES + number % RING * ENTRY_BYTES

    def _was_used(self, slot: int) -> bool:
        begin = self._entry(slot, 0)
        return self._map[begin : begin + RING * ENTRY_BYTES].count(0) != RING * ENTRY_BYTES

    def _is_open(self, at: int) -> bool:
        return self._read(at + _WORKER_FIELD) >> 1 > self._read(at + _CONSUMER_FIELD)

    def _read(self, at: int) -> int:
        return int(_U64.unpack_from(self._map, at)[0])


@functools.cache
def boot_id() -> bytes:
    """What stands for this boot of the machine; zeros where the system doesn't tell."""
    try:
        return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))[:_BOOT_BYTES]
    except (OSError, ValueError):
        return bytes(_BOOT_BYTES)


class Owed:
    """The attempts that a dead pool left open: to be charged when their messages come back. A file beside the board.

    The supervisor adds to it before it starts a new consumer; that consumer removes what it has charged.
    """

    def __init__(self, board: Path) -> None:
        self._path = board.with_suffix(".owed")
        self.keys = self._read()

    def add(self, keys: list[bytes]) -> None:
        """Writes down more keys, before their entries are wiped. On a full disk: OSError, and nothing is changed."""
        if keys:
            self.keys.update(keys)
            self._write()

    def charged(self, keys: list[bytes]) -> None:
        """Forgets keys whose attempts are settled."""
        if not self.keys.isdisjoint(keys):
            self.keys.difference_update(keys)
            with suppress(OSError):  # the disk is full: what stays in the file matches no message any more
                self._write()

    def _read(self) -> set[bytes]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return set()
        return {data[at : at + KEY_BYTES] for at in range(0, len(data) - KEY_BYTES + 1, KEY_BYTES)}

    def _write(self) -> None:
        fresh = self._path.with_suffix(".owed.new")
        fresh.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # somebody may have removed it under us
        fresh.write_bytes(b"".join(sorted(self.keys)))
        fresh.replace(self._path)


def charge_open(board: Scoreboard) -> int:
    """Writes down as owed what is open, then empties the scoreboard; how many. No process of the pool may be left.

    Raises:
        OSError: it can't be written down; nothing has changed.
    """
    keys = board.open_keys()
    Owed(board.path).add(keys)
    board.wipe()
    return len(keys)
