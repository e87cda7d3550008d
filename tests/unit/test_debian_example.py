"""The parser of the Debian example, on paragraphs as `apt-cache dumpavail` prints them."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "contrib" / "examples" / "debian" / "package_index.py"
SAMPLE = """\
Package: 0ad
Version: 0.0.26-3
Installed-Size: 28591
Section: games
Description: Real-time strategy game: of ancient warfare
 Package: not a field but a continuation
 .
 and the last line
Depends: 0ad-data (>= 0.0.26),
\t0ad-data-common


Package: odd
INSTALLED-SIZE: about 5

Version: of no package
Section: lost

Package:last
Section: utils"""


@pytest.fixture
def package_index() -> ModuleType:
    spec = importlib.util.spec_from_file_location("package_index", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_paragraphs_are_split_at_empty_lines(package_index: ModuleType, ending: str) -> None:
    found = list(package_index.paragraphs(line + ending for line in SAMPLE.split("\n")))
    assert [fields.get("package") for fields in found] == ["0ad", "odd", None, "last"]
    assert found[0] == {
        "package": "0ad",
        "version": "0.0.26-3",
        "installed-size": "28591",
        "section": "games",
        "description": "Real-time strategy game: of ancient warfare",
        "depends": "0ad-data (>= 0.0.26),",
    }


def test_a_file_is_printed_as_a_document_a_package(
    package_index: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "index").write_bytes(SAMPLE.encode() + b"\nMaintainer: \xff\n")
    monkeypatch.setattr(sys, "argv", ["package_index.py", str(tmp_path / "index")])
    package_index.main()
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"package": "0ad", "version": "0.0.26-3", "section": "games", "installed_size": 28591},
        {"package": "odd", "version": "", "section": "unknown", "installed_size": 0},
        {"package": "last", "version": "", "section": "utils", "installed_size": 0},
    ]


@pytest.mark.parametrize("text", ["", "\n\n", " \n"])
def test_an_empty_index_has_no_paragraphs(package_index: ModuleType, text: str) -> None:
    assert list(package_index.paragraphs(text.splitlines(keepends=True))) == []
