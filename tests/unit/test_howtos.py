"""The programs on the how-to pages about publishing are those of contrib/examples, which are tried in tests/process."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "contrib" / "examples" / "publishing"
PAGES = {
    "flask": ("events.py", "flask_app.py"),
    "fastapi": ("fastapi_app.py",),
    "django": (
        "django_site/signup/announcing.py",
        "django_site/signup/views.py",
        "django_site/signup/management/commands/announce.py",
    ),
    "scripts": ("import_users.py",),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_the_program_that_is_tried(page: str) -> None:
    text = (ROOT / "docs" / "how-to" / f"publish-from-{page}.md").read_text()
    for name in PAGES[page]:
        program = (EXAMPLES / name).read_text().split('"""', 2)[2].strip()  # without its docstring
        assert program in text, name
