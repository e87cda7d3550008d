"""Embedded buses of a test's own."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.home import Home

SCHEMES = ("filesystem", "memory")


@contextmanager
def embedded_url(scheme: str, home: Home) -> Iterator[str]:
    """The URL of a bus that nobody else uses. Afterwards nothing is left of it and its namesakes."""
    if scheme == "filesystem":
        yield f"filesystem://{home.path}/bus"
        return
    with memory_url() as url:
        yield url


@contextmanager
def memory_url() -> Iterator[str]:
    """The same in memory, which needs no home."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield f"memory://{name}"
    for root in (Path("/dev/shm"), Path(tempfile.gettempdir())):
        # By its full path: whoever looks through the other folders there meets those that other tests just remove.
        for folder in (root / f"busworker-{os.getuid()}").glob(f"{name}*"):
            shutil.rmtree(folder)
