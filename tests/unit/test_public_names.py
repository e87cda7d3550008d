"""The public names: each is there, comes from one place, and nothing else is promised."""

import ast
import importlib
from pathlib import Path
from typing import Any

import pytest

import busworker

PUBLIC = {
    "ApplicationError",
    "BrokerError",
    "BrokerUnavailable",
    "Bus",
    "BusworkerError",
    "Channel",
    "ConfigurationError",
    "ControlError",
    "DecodeError",
    "EncodeError",
    "Json",
    "LogFields",
    "Message",
    "MessageError",
    "Pattern",
    "ProtocolError",
    "PublishFailed",
    "Receipt",
    "Receipts",
    "Reject",
    "Retry",
    "RetryPolicy",
    "TimeLimitExceeded",
    "Topic",
    "TopologyMismatch",
    "__version__",
}


def shown_to_type_checkers() -> dict[str, str]:
    """The names under TYPE_CHECKING, with their modules."""
    tree = ast.parse(Path(busworker.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def test_the_public_names_are_these() -> None:
    assert set(busworker.__all__) == PUBLIC
    assert len(busworker.__all__) == len(PUBLIC)
    assert busworker.__all__ == sorted(busworker.__all__)


def test_type_checkers_see_the_same_names() -> None:
    assert shown_to_type_checkers().keys() == PUBLIC - {"__version__"}


@pytest.mark.parametrize(("name", "module"), shown_to_type_checkers().items())
def test_a_lazy_name_is_the_one_that_type_checkers_see(name: str, module: str) -> None:
    found = getattr(busworker, name)
    assert found is getattr(importlib.import_module(module), name)
    assert vars(busworker)[name] is found


def test_all_public_names_can_be_imported_at_once() -> None:
    namespace: dict[str, Any] = {}
    exec("from busworker import *", namespace)
    assert namespace.keys() >= PUBLIC


def test_dir_shows_the_public_names() -> None:
    assert set(dir(busworker)) >= PUBLIC


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'busworker' has no attribute 'nothing'"):
        busworker.nothing  # noqa: B018
    assert not hasattr(busworker, "Subscription")


def test_every_error_of_ours_is_a_busworker_error() -> None:
    control_flow = {busworker.Retry, busworker.Reject, busworker.TimeLimitExceeded}
    values = [getattr(busworker, name) for name in PUBLIC]
    errors = {value for value in values if isinstance(value, type) and issubclass(value, BaseException)}
    assert {error for error in errors if not issubclass(error, busworker.BusworkerError)} == control_flow
    assert not issubclass(busworker.TimeLimitExceeded, Exception)
