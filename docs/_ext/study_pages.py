"""One page per study: the README beside its results, or what its module says until there is one."""

import ast
import re
from pathlib import Path

IMAGE = re.compile(r"!\[([^]]*)\]\(([^):]+)\)")
FILE = re.compile(r"(?<!!)\[([^]]+)\]\((?!https?:)[^)]+\)")


def setup(app):
    """Join the build."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}


def write_pages(app):
    """Write docs/studies/pages/NAME.md for every study; what did not change is left alone."""
    pages = Path(app.srcdir) / "studies" / "pages"
    pages.mkdir(exist_ok=True)
    for module in Path(app.srcdir).parent.glob("experiments/*/__main__.py"):
        page, text = pages / f"{module.parent.name}.md", page_of(module)
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def page_of(module):
    """Return the page of the study whose command is `module`."""
    name, readme = module.parent.name, module.parent / "README.md"
    if not readme.exists():
        return f"# {name}\n\n{ast.get_docstring(ast.parse(module.read_text()))}\n"
    # Pictures are copied into the site; other files stay in the repository.
    pictures = IMAGE.sub(rf"![\1](../../../experiments/{name}/\2)", readme.read_text())
    return FILE.sub(r"\1", pictures)
