"""How Sphinx builds the pages."""

from importlib.metadata import version as installed

project = "busworker"
copyright = "busworker contributors"
version = release = installed("busworker")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"busworker {release}"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "description"
