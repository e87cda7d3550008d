"""`python -m busworker` is the command `busworker`."""

from __future__ import annotations

from busworker.cli import main

if __name__ == "__main__":
    main()
