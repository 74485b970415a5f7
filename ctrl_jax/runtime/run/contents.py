"""What a run was given, by content: digests of files, folders and modules of one's own.

A path says where something lies and not what it is. What is named here is kept in the run's
config.json and in its checkpoints, so that a run is continued with what it was started with.
"""

import ast
import hashlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ctrl_jax._checks import check_path


def digests_of(
    paths: Mapping[str, str | os.PathLike[str] | None], **callables: str | None
) -> dict[str, str]:
    """Return the digests of what options name; an option that was not given has none.

    Args:
        paths: names of options to files or folders.
        **callables: names of options to `module:function`.
    """
    found = {name: content_digest(path) for name, path in paths.items() if path is not None}
    given = {name: spec for name, spec in callables.items() if spec is not None}
    return found | {name: module_digest(spec) for name, spec in given.items()}


def content_digest(
    path: str | os.PathLike[str], wanted: Callable[[str], bool] = lambda name: True
) -> str:
    """Return the sha256 of a file's bytes, or of the names and bytes of a folder's files.

    Args:
        path: a file or a folder; hidden files and folders in it do not count.
        wanted: which files of a folder count, by their path in it.
    """
    check_path("path", path)
    path = Path(path)
    if path.is_file():
        return _file_digest(path)
    found = hashlib.sha256()
    for name, file in sorted(_files(path)):
        if wanted(name):
            found.update(f"{name}\0{_file_digest(file)}\0".encode(errors="surrogateescape"))
    return found.hexdigest()


def module_digest(spec: str) -> str:
    """Return the sha256 of `module:function`: its name and the sources it is made of.

    Those are the module and all that it imports, as far as they are neither installed packages nor
    of Python itself nor of this library, whose versions are kept beside.

    Args:
        spec: `module:function`, a module that can be imported.
    """
    found, seen = hashlib.sha256(spec.encode()), set()
    waiting = [spec.partition(":")[0]]
    while waiting:
        name = waiting.pop()
        source = _own_source(name)
        if source is None or source in seen:
            continue
        seen.add(source)
        waiting += [*_imports(source, name)]
    for digest in sorted(f"{path.name} {_file_digest(path)}" for path in seen):
        found.update(f"\0{digest}".encode())
    return found.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    visited = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # a link that leads back
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
        for name in names:
            file = Path(place, name)
            if not name.startswith(".") and file.is_file():
                yield file.relative_to(folder).as_posix(), file


_INSTALLED = tuple(
    os.path.realpath(path) + os.sep
    for path in {
        sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
)


def _own_source(name: str) -> Path | None:
    """Return the file of a module of the user's own, None for all others."""
    if name.split(".")[0] in ("", "ctrl_jax", "__main__"):
        return None
    found: Any = sys.modules.get(name)
    try:
        spec = getattr(found, "__spec__", None) or importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    origin = None if spec is None else spec.origin
    if origin is None or not origin.endswith(".py"):
        return None
    path = Path(os.path.realpath(origin))
    inside = str(path).startswith(_INSTALLED) or "site-packages" in path.parts
    return path if path.is_file() and not inside else None


def _imports(source: Path, name: str) -> Iterator[str]:
    """Yield the names that a source imports, wherever in it, and the packages they lie in."""
    parts = name.split(".")
    package = parts if source.name == "__init__.py" else parts[:-1]
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError):  # of another Python: what imports it may do without
        return
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for found in names:
            pieces = found.split(".")
            yield from (".".join(pieces[: n + 1]) for n in range(len(pieces)))
