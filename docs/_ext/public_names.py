"""Names in pages must exist: a reference to `ctrl_jax` that resolves to nothing is a warning."""

from sphinx.util import logging

logger = logging.getLogger(__name__)


def setup(app):
    """Join the build."""
    app.connect("missing-reference", complain, priority=900)
    return {"parallel_read_safe": True}


def complain(app, env, node, contnode):
    """Warn of an unresolved Python name in a page written by hand (api/ is made of docstrings)."""
    written = not node.get("refdoc", "").startswith("api/")
    if written and node.get("refdomain") == "py":
        logger.warning("no such public name: %s", node["reftarget"], location=node)
