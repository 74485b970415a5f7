"""Every exported name explains itself under `help`: no docstring sends the reader elsewhere."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import ctrl_jax

ELSEWHERE = re.compile(
    r"arguments,? (and errors )?(as|like)\b|errors,? as\b|as above|see above"
    r"|: as (in |for )?`\w+`",
    re.IGNORECASE,
)
EQUATION = re.compile(r"(?<![\w)])\((\d{1,2}[a-z]?)\)")
LABEL = re.compile(r"  \((\d{1,2}[a-z]?)\)\s*$", re.MULTILINE)  # set apart, behind its formula
VARIADIC = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
THIRD_PERSON = re.compile(r"[A-Z][a-z]+[^\Ws]s\b")


def exported() -> dict[str, Any]:
    """Every function and class that a package or an exported module of the library offers."""
    packages = [ctrl_jax, *map(importlib.import_module, _package_names())]
    found: dict[str, Any] = {}
    for package in packages:
        for name in getattr(package, "__all__", ()):
            member = getattr(package, name)
            inner = _members(member) if isinstance(member, ModuleType) else {"": member}
            for suffix, each in inner.items():
                if inspect.isfunction(each) or inspect.isclass(each):
                    found.setdefault(f"{package.__name__}.{name}{suffix}", each)
    return {name: each for name, each in found.items() if each.__module__.startswith("ctrl_jax")}


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
    if unknown := sorted(set(EQUATION.findall(text)) - set(LABEL.findall(text))):
        found.append(f"it does not show the equation it names: {', '.join(unknown)}")
    if inspect.isclass(member):
        return found
    if THIRD_PERSON.match(text):
        found.append(f"it does not begin with an imperative: {text.split()[0]}")
    returned = inspect.signature(member).return_annotation
    says = re.match(r"(Return|Yield|Draw)\b", text) or re.search(r"^(Returns|Yields):", text, re.M)
    if returned not in (None, "None", inspect.Signature.empty) and not says:
        found.append("it does not say what it returns")
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

    Neither (1) nor (3, 4) is a number from elsewhere.
    """
    return x


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
        (_equation_in_a_sentence, "equation it names: 1"),
        (_no_result, "does not say what it returns"),
        (_no_end, "no end"),
    ],
)
def test_a_docstring_that_does_not_is_named(member, fault):
    assert any(fault in found for found in faults(member)), faults(member)
