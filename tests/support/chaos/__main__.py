"""`python -m tests.support.chaos '{"seed": 1, "messages": 900, "faults": 12, "disk": true}'`: a run on an embedded bus.

Best in name spaces of its own for mounts and processes. Exit 1: the checker complains, and the journal of faults is
told.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys

from tests.support import Command, Home
from tests.support.chaos.driver import Chaos, Wishes, holds


def main(wishes: Wishes) -> int:
    """Runs the chaos; 1: the checker complains, or something waited for did not come."""
    home = Home.create()
    with contextlib.ExitStack() as stack:
        stack.callback(home.remove)
        if wishes.disk:
            stack.callback(subprocess.run, ["umount", "-l", str(home.state)], stderr=subprocess.DEVNULL, check=False)
        command = Command(home)
        stack.callback(command.close)
        return 0 if holds(Chaos(wishes, command, home), home) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main(Wishes(**json.loads(sys.argv[1]))))
