"""A disk of 20 MB: a file system in memory, in a mount namespace that is gone with its process."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def run_where_it_may_mount(script: str, *args: str, env: Mapping[str, str], timeout: float) -> list[str]:
    """The lines that a script prints which may mount file systems; skips, loudly, where nobody may."""
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"NO FULL DISK WAS TRIED: mounting a file system needs root ({tried.stderr.decode().strip()})")
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", script, *args],
        cwd=REPOSITORY,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
