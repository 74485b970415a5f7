"""One page per study: the README that `python -m experiments.report` writes beside its results."""

from pathlib import Path

PAGE = """```{{include}} ../../experiments/{name}/README.md
:relative-images:
:relative-docs: .
```
"""


def setup(app):
    """Join the build."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}


def write_pages(app):
    """Write docs/studies/NAME.md for every study that has a README."""
    folder = Path(app.srcdir) / "studies"
    folder.mkdir(exist_ok=True)
    for readme in Path(app.srcdir).parent.glob("experiments/*/README.md"):
        page, text = folder / f"{readme.parent.name}.md", PAGE.format(name=readme.parent.name)
        if not page.exists() or page.read_text() != text:
            page.write_text(text)
