"""How the site is built: `make docs`. Warnings are errors, and nothing is fetched unless asked."""

import hashlib
import importlib.metadata
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).parent / "_ext"))


def _digest_of_library() -> str:
    """Change with the code, so that a notebook is run again when what it shows may have changed."""
    files = sorted((ROOT / "ctrl_jax").rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


project = "ctrl_jax"
author = "the authors of ctrl_jax"
copyright = "the authors of ctrl_jax; Apache-2.0"
release = version = importlib.metadata.version("ctrl_jax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.intersphinx",
    "plain_docstrings",
    "notebooks",
    "public_names",
    "study_pages",
]
exclude_patterns = ["_build", "_ext"]

# Docstrings. They are written for help(), see _ext/plain_docstrings.py.
default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Fields", "params_style")]
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

# Pages.
myst_enable_extensions = ["amsmath", "dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / ".cache" / "notebooks" / _digest_of_library())
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

# The build works without a network: other projects' names become links only when asked for.
_OTHERS = {
    "python": "https://docs.python.org/3",
    "jax": "https://docs.jax.dev/en/latest",
    "optax": "https://optax.readthedocs.io/en/latest",
    "flax": "https://flax.readthedocs.io/en/latest",
    "diffrax": "https://docs.kidger.site/diffrax",
}
_ASKED = os.environ.get("INTERSPHINX") == "1"
intersphinx_mapping = {name: (url, None) for name, url in _OTHERS.items()} if _ASKED else {}

html_theme = "sphinx_book_theme"
html_title = "ctrl_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
mathjax_path = "https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-mml-chtml.js"
