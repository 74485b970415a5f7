"""Notebooks run before the pages are read, as many at once as there are cores."""

import logging
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

READER = {"name": "myst_nb_md", "type": "plugin", "data": {}}


def setup(app):
    """Join the build."""
    app.connect("builder-inited", run)
    return {"parallel_read_safe": True}


def run(app):
    """Run each notebook that has no output kept; myst-nb runs one that fails again and says why."""
    if app.config.nb_execution_mode != "cache":
        return
    cache = get_cache(app.config.nb_execution_cache_path)
    pages = [p.absolute() for p in Path(app.srcdir).glob("gallery/*.md")]
    found = [str(page) for page in pages if "file_format: mystnb" in page.read_text()]
    for page in found:
        cache.add_nb_to_project(page, read_data=READER)
    executor = load_executor("local-parallel", cache, logging.getLogger(__name__))
    executor.run_and_cache(filter_uris=found, timeout=app.config.nb_execution_timeout)
