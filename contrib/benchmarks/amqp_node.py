"""A RabbitMQ node for the benchmarks: the tests' own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def own_node(folder: Path) -> Any:
    """A RabbitMQ node in a folder, not started; it is the tests' way to have one."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    rabbitmq: Any = importlib.import_module("tests.support.rabbitmq")
    if not (rabbitmq.BIN / "rabbitmq-server").exists():
        raise SystemExit(f"no {rabbitmq.BIN}/rabbitmq-server: apt-get install rabbitmq-server")
    return rabbitmq.Node(folder)
