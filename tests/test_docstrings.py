"""Every exported name explains itself under `help`: no docstring sends the reader elsewhere."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ctrl_jax

ELSEWHERE = re.compile(
    r"arguments,? (and errors )?(as|like)\b|errors,? as\b|as above|see above"
    r"|: as (in |for )?`\w+`|\bthis (module's )?page\b",
    re.IGNORECASE,
)
NUMBER = r"[1-9]\d?[a-z]?'?"  # never 0, so that (0, 1) is an interval
EQUATION = re.compile(rf"(?<![\w)])\(({NUMBER}(?:, {NUMBER})*)\)")
LABEL = re.compile(rf"  \(({NUMBER})\)\s*$", re.MULTILINE)  # set apart, behind its formula
DIRECTIVE = re.compile(r"^\.\. auto(\w+):: (\S+)\n((?: +:.*\n)*)", re.MULTILINE)
PAGES = Path(__file__).parents[1] / "docs" / "api"
OWN = ("ctrl_jax", __name__)
VARIADIC = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
THIRD_PERSON = re.compile(r"[A-Z][a-z]+[^\Ws]s\b")


def exported() -> dict[str, Any]:
    """Every function and class that a package, an exported module or a page of the API offers."""
    packages = [ctrl_jax, *map(importlib.import_module, _package_names())]
    found: dict[str, Any] = {}
    for package in packages:
        for name in getattr(package, "__all__", ()):
            member = getattr(package, name)
            inner = _members(member) if isinstance(member, ModuleType) else {"": member}
            for suffix, each in inner.items():
                if inspect.isfunction(each) or inspect.isclass(each):
                    found.setdefault(f"{package.__name__}.{name}{suffix}", each)
    for name, member in documented().items():
        if not any(member is each for each in found.values()):
            found[name] = member
    return {name: each for name, each in found.items() if each.__module__.startswith("ctrl_jax")}


def documented() -> dict[str, Any]:
    """Every function and class that the pages of the API show."""
    found: dict[str, Any] = {}
    for page in sorted(PAGES.glob("*.md")):
        for kind, target, options in DIRECTIVE.findall(page.read_text()):
            if kind == "module":
                module = importlib.import_module(target)
                listed = re.search(r":members: *(\S.*)", options)
                names = re.split(r",\s*", listed[1].strip()) if listed else ()
                each = {f".{name}": getattr(module, name) for name in names} or _members(module)
                found |= {f"{target}{name}": member for name, member in each.items()}
            else:
                module, name = target.rsplit(".", 1)
                found[target] = getattr(importlib.import_module(module), name)
    return {
        name: each
        for name, each in found.items()
        if inspect.isfunction(each) or inspect.isclass(each)
    }


def _package_names() -> Iterator[str]:
    for module in pkgutil.walk_packages(ctrl_jax.__path__, "ctrl_jax."):
        if module.ispkg:
            yield module.name


def _members(module: ModuleType) -> dict[str, Any]:
    own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
    names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
    return {f".{name}": getattr(module, name) for name in names}


def parameters(member: Any) -> list[str]:
    """The names of what a function or a constructor takes."""
    if getattr(member, "_is_protocol", False) or not own_signature(member):
        return []
    taken = own_signature(member)
    if inspect.isclass(member) and {p.kind for p in taken} <= VARIADIC:
        # A metaclass hides the constructor's own signature.
        taken = own_signature(member.__init__)[1:]
    return [p.name for p in taken if p.kind not in VARIADIC or not inspect.isclass(member)]


def own_signature(member: Any) -> list[inspect.Parameter]:
    """The parameters; none for an error, whose constructor is the interpreter's."""
    error = inspect.isclass(member) and issubclass(member, Exception)
    plain = error and not inspect.isfunction(member.__init__)
    return [] if plain else list(inspect.signature(member).parameters.values())


def faults(member: Any) -> list[str]:
    """What is wrong with the docstring of a function or class."""
    text = inspect.cleandoc(member.__doc__ or "")
    if not text or (inspect.isclass(member) and text.startswith(f"{member.__name__}(")):
        return ["it has none"]  # a NamedTuple or dataclass without one shows its signature
    first = text.split("\n\n")[0]
    found = (
        [] if first.rstrip("`").endswith((".", ":", "::")) else ["its first sentence has no end"]
    )
    if missing := [p for p in parameters(member) if not re.search(rf"\b{re.escape(p)}\b", text)]:
        found.append(f"it does not name {', '.join(missing)}")
    if elsewhere := ELSEWHERE.search(text):
        found.append(f"it sends the reader elsewhere: {elsewhere.group()!r}")
    if unknown := unshown(text):
        found.append(f"it does not show the equation it names: {', '.join(unknown)}")
    if inspect.isclass(member):
        return found + _faults_inside(member, text)
    if THIRD_PERSON.match(text):
        found.append(f"it does not begin with an imperative: {text.split()[0]}")
    returned = inspect.signature(member).return_annotation
    says = re.match(r"(Return|Yield|Draw)\b", text) or re.search(r"^(Returns|Yields):", text, re.M)
    if returned not in (None, "None", inspect.Signature.empty) and not says:
        found.append("it does not say what it returns")
    return found


def unshown(text: str, shown: str = "") -> list[str]:
    """The equation numbers that a text names, and that neither it nor `shown` shows."""
    named = {number for numbers in EQUATION.findall(text) for number in numbers.split(", ")}
    return sorted(named - set(LABEL.findall(f"{text}\n{shown}")))


def _faults_inside(member: type, text: str) -> list[str]:
    """What is wrong with equation numbers in public methods and properties of a class."""
    found = []
    for name in dir(member):
        inner = inspect.getattr_static(member, name)
        inner = getattr(inner, "__func__", inner)  # of a static or class method
        inner = getattr(inner, "__wrapped__", inner)
        whose = getattr(getattr(inner, "fget", inner), "__module__", None) or ""
        doc = inspect.cleandoc(getattr(inner, "__doc__", None) or "")
        hidden = name.startswith("_") and name != "__call__"
        if hidden or inspect.isclass(inner) or not whose.startswith(OWN):
            continue
        if unknown := unshown(doc, text):
            found.append(f"its {name} does not show the equation it names: {', '.join(unknown)}")
    return found


def test_every_exported_name_explains_itself():
    names = exported()
    assert len(names) > 200, sorted(names)
    wrong = {name: found for name, member in names.items() if (found := faults(member))}
    listed = "\n".join(f"{name}: {'; '.join(found)}" for name, found in sorted(wrong.items()))
    assert not wrong, f"{len(wrong)} docstrings do not stand alone:\n{listed}"


def _no_docstring(x: int) -> int:
    return x


def _third_person(x: int) -> int:
    """Returns x."""
    return x


def _no_parameter(x: int, y: int) -> int:
    """Return x."""
    return x + y


def _elsewhere(x: int) -> int:
    """Return x; arguments as `other`."""
    return x


def _no_equation(x: int) -> int:
    """Return f(1), the solution of (2) and of

        x = x.                                                                             (1)

    (1) is no number from elsewhere, and (0, 1) is an interval.
    """
    return x


def _no_equations(x: int) -> int:
    """Return x, the solution of (3, 4') elsewhere."""
    return x


def _page(x: int) -> int:
    """Return x by equation 4 of this page."""
    return x


class _Inside:
    """A class with an equation,

    x = x.                                                                             (1)
    """

    @property
    def both(self) -> int:
        """The solution of (1) and (2)."""
        return 1


def _equation_in_a_sentence(x: int) -> int:
    """Return x, which solves the equation (1)
    of another docstring.
    """
    return x


def _no_result(x: int) -> int:
    """Double x."""
    return 2 * x


def _no_end(x: int) -> int:
    """Return x"""
    return x


@pytest.mark.parametrize(
    ("member", "fault"),
    [
        (_no_docstring, "it has none"),
        (_third_person, "imperative: Returns"),
        (_no_parameter, "does not name y"),
        (_elsewhere, "elsewhere"),
        (_no_equation, "equation it names: 2"),
        (_no_equations, "equation it names: 3, 4'"),
        (_page, "elsewhere: 'this page'"),
        (_Inside, "its both does not show the equation it names: 2"),
        (_equation_in_a_sentence, "equation it names: 1"),
        (_no_result, "does not say what it returns"),
        (_no_end, "no end"),
    ],
)
def test_a_docstring_that_does_not_is_named(member, fault):
    assert any(fault in found for found in faults(member)), faults(member)
