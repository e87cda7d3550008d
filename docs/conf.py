"""How Sphinx builds the pages."""

from importlib.metadata import version as installed
from typing import Any

from busworker.settings import SETTINGS, Setting

project = "busworker"
copyright = "busworker contributors"
version = release = installed("busworker")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"busworker {release}"
myst_enable_extensions = ["colon_fence", "deflist", "substitution"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"Json": "busworker.Json"}
napoleon_custom_sections = ["Guarantees"]
smartquotes = False  # "--option" is no dash


def settings_table() -> str:
    """The settings as a table, from their only declaration."""
    heads = ("setting", "what it is", "value", "default", "option", "variable", "pyproject.toml")
    rows = [heads, ("---",) * len(heads), *(_row(one) for one in SETTINGS)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(one: Setting[Any]) -> tuple[str, ...]:
    default = "none" if one.default is None else f"`{one.default}`"
    choices = f": {', '.join(f'`{choice}`' for choice in one.choices)}" if one.choices else ""
    project_key = f"`{one.name}`" if one.in_project else "no"
    return one.name, one.help, one.kind + choices, default, f"`{one.option}`", f"`{one.variable}`", project_key


myst_substitutions = {"settings_table": settings_table()}
