"""One page per study: the README beside its results, or what its module says until there is one."""

import ast
from pathlib import Path

README = """```{{include}} ../../../experiments/{name}/README.md
:relative-images:
```
"""


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
    name = module.parent.name
    if (module.parent / "README.md").exists():
        return README.format(name=name)
    return f"# {name}\n\n{ast.get_docstring(ast.parse(module.read_text()))}\n"
