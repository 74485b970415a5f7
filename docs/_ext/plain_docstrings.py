r"""Docstrings written for `help()`, read by Sphinx as what they are: plain text.

Formulas are indented blocks with signs that reStructuredText would take for markup (`|x|`, `x*`,
`y_`). Here every indented block outside the Google sections becomes a literal block, its TeX
commands the letters they stand for, and the signs in sentences are escaped. Runs before napoleon,
which then reads the sections.
"""

import itertools
import re

SECTIONS = ("Args:", "Returns:", "Raises:", "Fields:", "Yields:", "Example:", "Examples:")
LETTERS = {
    "sum": "Σ",
    "prod": "Π",
    "int": "∫",
    "nabla": "∇",
    "partial": "∂",
    "inf": "inf",
    "sqrt": "√",
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "delta": "δ",
    "epsilon": "ε",
    "eta": "η",
    "theta": "θ",
    "kappa": "κ",
    "lambda": "λ",
    "mu": "μ",
    "pi": "π",
    "rho": "ρ",
    "sigma": "σ",
    "tau": "τ",
    "phi": "φ",
    "psi": "ψ",
    "Phi": "Φ",
    "Delta": "Δ",
}
COMMAND = re.compile(r"\\([A-Za-z]+)")
CODE = re.compile(r"(``[^`]+``|`[^`]+`)")


def setup(app):
    """Join the build."""
    app.connect("autodoc-process-docstring", rewrite, priority=100)
    app.connect("autodoc-process-signature", shorten)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}


def skip(app, what, name, obj, skipped, options):
    """Leave out the fields of named tuples, whose own docstring is "Alias for field number 0"."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def shorten(app, what, name, obj, options, signature, returned):
    """Name arrays as everybody does; autodoc finds them where jax hides them."""
    texts = (signature, returned)
    return tuple(text and re.sub(r"\b(jax\.)?jaxlib\._jax\.Array", "Array", text) for text in texts)


def rewrite(app, what, name, obj, options, lines):
    """Replace the docstring's lines by reStructuredText."""
    # Of a property napoleon takes what stands before a colon in the first line for its type.
    lines[:] = [*(["\\ "] if what in ("property", "attribute") else []), *to_rst(lines)]


def to_rst(lines):
    """Yield the lines with formulas as literal blocks and signs escaped."""
    for formula, group in itertools.groupby(
        zip(_is_formula(lines), lines, strict=True), lambda pair: pair[0]
    ):
        text = "\n".join(line for _, line in group)
        if formula:
            yield from ("", "::", "", *letters(text).splitlines(), "")
        else:
            yield from escape(text).split("\n")


def _is_formula(lines):
    """Yield whether each line is indented, or a row of a table, and outside of every section."""
    in_section = False
    for line in lines:
        indented = line.startswith(("    ", "| "))
        if line.strip() and not indented:
            in_section = line.strip() in SECTIONS
        yield indented and not in_section


def letters(text):
    """Return text with the TeX commands that have a letter replaced by it."""
    return COMMAND.sub(lambda found: LETTERS.get(found[1], found[0]), text)


def escape(text):
    """Return a line of prose in which only backticks and quoted code are markup."""
    prose, *rest = CODE.split(text)
    escaped = _escape(prose)
    for code, prose in zip(rest[::2], rest[1::2], strict=True):
        # Markup that touches a letter, as in `Array`s, ends with an escaped blank.
        escaped += code + ("\\ " if prose[:1].isalnum() else "") + _escape(prose)
    return escaped


def _escape(prose):
    prose = letters(prose).replace("\\", r"\\")
    prose = re.sub(r"([*|])", r"\\\1", prose)
    prose = re.sub(r"(?m)(?<=: )([A-Za-z])\.$", r"\\\1.", prose)  # else a list with an item d
    return re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", prose)
