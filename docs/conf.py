"""Sphinx configuration: ``make docs`` builds the pages into build/docs."""

import importlib.util

import vecidx

project = "vecidx"
author = "the vecidx authors"
copyright = "the vecidx authors"
version = release = vecidx.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon",
              "sphinx.ext.viewcode"]
nitpicky = False
# ref.python: words of shapes such as (n, dim), which more than one class has.
suppress_warnings = ["ref.python", "autodoc.mocked_object"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False       # others' docstrings are not reStructuredText
autodoc_typehints = "none"               # the docstrings say it, shapes included
autodoc_mock_imports = [name for name in ("langchain_core", "llama_index", "haystack", "scipy",
                                          "sklearn", "openTSNE", "txtai", "mteb", "ray", "fsspec",
                                          "pyarrow")
                        if importlib.util.find_spec(name) is None]
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = f"vecidx {version}"
html_static_path = ["_static"]
html_css_files = ["vecidx.css"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "show_toc_level": 2,
    "header_links_before_dropdown": 7,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "secondary_sidebar_items": ["page-toc"],
}
