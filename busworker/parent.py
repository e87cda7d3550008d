"""How a process makes sure that it doesn't outlive its parent. Called in the child, right after the fork."""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int, signal: int) -> None:
    """Has the kernel send this process a signal when its parent ends, also if it ended between fork and this call.

    Args:
        parent: the pid of the process that forked this one.
        signal: what to send. Elsewhere than on Linux nothing is sent.

    Raises:
        OSError: the kernel refuses.

    Guarantees:
        It survives an exec. The kernel means the *thread* that forked (PR_SET_PDEATHSIG(2const)).
    """
    if sys.platform == "linux" and _libc.prctl(_PR_SET_PDEATHSIG, int(signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(1)
