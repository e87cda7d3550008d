"""A home of one's own: the folders and the environment that subprocesses of one test get."""

import os
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

MARKER = "BUSWORKER_TEST_ID"
"""The variable by which the processes of one test are found, wherever they went."""


@dataclass(frozen=True)
class Home:
    """The folders of one test, short enough for Unix sockets (108 bytes), and the environment naming them.

    Attributes:
        broker: the URL of its bus; empty for the default one, in the home's state folder.
    """

    path: Path
    marker: str
    broker: str = ""

    @classmethod
    def create(cls, broker: str = "") -> "Home":
        """A new home under /tmp, whatever TMPDIR says, with its folders made."""
        home = cls(Path(tempfile.mkdtemp(prefix="bw-", dir="/tmp")), uuid.uuid4().hex, broker)
        for folder in (home.state, home.runtime, home.tmp, home.logs):
            folder.mkdir(mode=0o700)
        return home

    @property
    def state(self) -> Path:
        """XDG_STATE_HOME."""
        return self.path / "state"

    @property
    def runtime(self) -> Path:
        """XDG_RUNTIME_DIR."""
        return self.path / "run"

    @property
    def tmp(self) -> Path:
        """TMPDIR."""
        return self.path / "tmp"

    @property
    def logs(self) -> Path:
        """Where the output of the commands goes."""
        return self.path / "logs"

    @property
    def env(self) -> dict[str, str]:
        """A copy of this process's environment in which all that busworker looks at is the test's own."""
        foreign = ("BUSWORKER_", "XDG_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        bus = {"BUSWORKER_BROKER": self.broker} if self.broker else {}
        return (
            kept
            | bus
            | {
                "HOME": str(self.path),
                "TMPDIR": str(self.tmp),
                "XDG_RUNTIME_DIR": str(self.runtime),
                "XDG_STATE_HOME": str(self.state),
                MARKER: self.marker,
            }
        )

    def write(self, name: str, text: str) -> Path:
        """A file in the home, which is the commands' current folder: an application's module, mostly."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def remove(self) -> None:
        """Removes all of it."""
        shutil.rmtree(self.path)
