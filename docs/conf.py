"""The site: ``pip install '.[docs]'``, then ``sphinx-build -W docs docs/_build``."""

import os
import tomllib
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # scripts of the gallery run side by side

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project = "opflow"
author = copyright = "The opflow authors"
version = release = PROJECT["version"]
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax lies beside the pages, which then need no network
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/*.ipynb", "gallery/*.py", "gallery/*.zip"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
# Names that differ in case alone get files that differ in more, for systems that do not see case.
CLASSES = ["KernelVelocity", "spectral.Density", "spectral.Diagonal", "spectral.Jacobi"]
CLASSES += ["spectral.KernelRegression", "spectral.Nystrom", "spectral.Posterior"]
CLASSES += ["spectral.Quadrature", "spectral.Sharpness", "hierarchy.Members"]
autosummary_filename_map = {f"opflow.{name}": f"opflow.{name}-class" for name in CLASSES}
templates_path = ["_templates"]
autodoc_typehints = "none"  # numpydoc sections give the types
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
# What estimators inherit of scikit-learn is documented there.
autodoc_default_options = {
    "exclude-members": "set_fit_request, set_score_request, set_partial_fit_request"
}

# Inventories are fetched only where OPFLOW_DOCS_ONLINE=1, so that the build needs no network.
intersphinx_mapping = (
    {
        "numpy": ("https://numpy.org/doc/stable", None),
        "pylops": ("https://pylops.readthedocs.io/en/stable", None),
        "python": ("https://docs.python.org/3", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }
    if os.environ.get("OPFLOW_DOCS_ONLINE") == "1"
    else {}
)

sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "ExampleTitleSortKey",
    "download_all_examples": False,
    "doc_module": ("opflow",),
    "backreferences_dir": "gallery/uses",
    "show_signature": False,
    "parallel": 2,
    "write_computation_times": False,
}

html_theme = "pydata_sphinx_theme"
html_title = f"opflow {version}"
html_logo = html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_context = {"default_mode": "auto"}  # light or dark as the reader's system
html_theme_options = {
    "github_url": PROJECT["urls"]["Repository"],
    "logo": {"text": f"opflow {version}"},
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def setup(app):
    """Leave out what named tuples say of each field: "Alias for field number 0"."""

    def skip(app, what, name, member, skip, options):
        return skip or (getattr(member, "__doc__", None) or "").startswith("Alias for field")

    app.connect("autodoc-skip-member", skip)
