"""Sphinx configuration: ``sphinx-build -W docs docs/_build``."""

project = "opflow"
author = "The opflow authors"
copyright = "The opflow authors"
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
exclude_patterns = ["_build"]
