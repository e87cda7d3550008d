"""The README's test command is the one that continuous integration runs."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_readme_names_exactly_the_command_that_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text().rstrip().splitlines()
    readme = (ROOT / "README.md").read_text().splitlines()
    assert script[-1] in [line.strip().removeprefix("$ ") for line in readme]
