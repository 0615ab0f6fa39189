"""The site of these pages and of the package's docstrings: ``sphinx-build -W docs docs/_build``."""

from pathlib import Path

import torchreid_xres

project = "torchreid_xres"
author = copyright = "torchreid_xres developers"
version = release = torchreid_xres.__version__

extensions = ["myst_parser", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "torchreid_xres"
myst_heading_anchors = 3  # the anchors that code hosts give to headings

apidoc_modules = [{"path": str(Path(torchreid_xres.__file__).parent), "destination": "api", "module_first": True}]
# Each thing once, where it is defined.
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_use_type_comments = False
napoleon_custom_sections = [("Options", "params_style"), "Layouts"]
napoleon_use_ivar = True  # attributes are described with their class
