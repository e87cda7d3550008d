"""The command line: one module a command group, imported when it is called.

`busworker start` becomes the supervisor; no other process imports this package.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits with its code; `args` follow the command's name, None: this process's."""
    from busworker.cli.ending import run  # importing the package alone stays cheap

    sys.exit(run(args))
