"""Sphinx: the pages of this folder and the reference from the docstrings. `make docs` builds build/site."""

from importlib.metadata import version as installed_version

project = "kullback"
copyright = "the kullback authors"
version = release = installed_version("kullback")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "kullback"
exclude_patterns = ["*.py"]
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
add_module_names = False  # everything is importable from kullback itself
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # attributes once, as a list
myst_heading_anchors = 3
# examples are written with prompts, for the tests
highlight_language = "python"
suppress_warnings = [
    "docutils",  # |x| in a docstring is an absolute value, not a substitution
    "myst.xref_missing",  # links to files of the repository outside docs/
    "ref.python",  # `value` in a docstring names a parameter
]
