"""How Sphinx builds the pages."""

from importlib.metadata import version as installed

from busworker.settings import SETTINGS

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


def settings_table() -> str:
    """The settings as a table, from their only declaration."""
    rows = ["| setting | what it is | value | default | option | variable | pyproject.toml |", "|---|---|---|---|---|---|---|"]
    for one in SETTINGS:
        default = "none" if one.default is None else f"`{one.default}`"
        choices = f": {', '.join(f'`{choice}`' for choice in one.choices)}" if one.choices else ""
        project_key = f"`{one.name}`" if one.in_project else "no"
        rows.append(
            f"| {one.name} | {one.help} | {one.kind}{choices} | {default} | `{one.option}` | `{one.variable}` | {project_key} |"
        )
    return "\n".join(rows)


myst_substitutions = {"settings_table": settings_table()}
