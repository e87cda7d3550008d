"""The command line: one module a command group, imported when it is called.

`busworker start` becomes the supervisor; no other process imports this package.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits with its code; `args` follow the command's name, None: this process's."""
    _open_standard_streams()
    from busworker.cli.ending import run  # importing the package alone stays cheap

    sys.exit(run(args))


def _open_standard_streams() -> None:
    """Gives /dev/null to those that the caller closed: else the next file opened would get our output."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  for the process's life
