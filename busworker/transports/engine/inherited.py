"""Descriptors that a forked child must not keep.

A flock and a FIFO belong to an open file description, which a fork shares: a child that kept the descriptor would
hold its parent's claims and its parent's place as a listener long after the parent died (flock(2), fifo(7)). The
child closes them before any other code of it runs.
"""

from __future__ import annotations

import os

_private: set[int] = set()


def keep_private(descriptor: int) -> int:
    """Marks a descriptor to be closed in forked children; returns it."""
    _private.add(descriptor)
    return descriptor


def close(descriptor: int) -> None:
    """Closes a descriptor that was marked."""
    _private.discard(descriptor)
    os.close(descriptor)


def _close_all() -> None:
    while _private:
        try:
            os.close(_private.pop())
        except OSError:
            pass  # closed behind our back; what matters is that it isn't open


os.register_at_fork(after_in_child=_close_all)
