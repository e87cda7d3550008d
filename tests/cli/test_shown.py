"""The README's five minutes, as they are written, print what is written; `tox -e shown` runs all pages."""

from docs.shown.__main__ import ROOT, session_texts


def test_five_minutes_go_as_the_readme_says() -> None:
    _, _, page = (ROOT / "README.md").read_text().partition("## Five minutes")
    assert session_texts(page) == {}, "python -m docs.shown README.md puts there what is printed now"
