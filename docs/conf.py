"""How Sphinx renders the documentation site, which `scripts/build_site.py` builds."""

from docutils import nodes
from sphinx.application import Sphinx

import sfi_ray

project = "sfi_ray"
author = "the sfi_ray authors"
version = release = sfi_ray.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

smartquotes = False  # "--fresh" is an option
default_role = "py:obj"
toc_object_entries_show_parents = "hide"

myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]

# Every build runs the notebooks, so the site shows what the present code gives.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False

html_title = "sfi_ray"
html_copy_source = False
html_sidebars = {"index": [], "tutorial": []}  # pages without others beside them
html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "show_prev_next": True,
    "navbar_align": "left",
    "footer_start": [],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}


def _set_dashes(_app: Sphinx, doctree: nodes.document) -> None:
    """Sets the dash between a parameter and its meaning, which Sphinx leaves to the smart quotes."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" \N{EN DASH} "))


def setup(app: Sphinx) -> None:
    """Registers what is done to every page."""
    app.connect("doctree-read", _set_dashes)
