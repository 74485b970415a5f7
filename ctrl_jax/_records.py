"""JSON on disk that is whole or not there.

JSON has no NaN: a number that is not finite is stored as `null`, which every reader understands.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ctrl_jax._checks import refuse
from ctrl_jax._whole import whole_file

CHANGED = "it is not what was written: the disk or somebody changed it"


def plain(value: Any) -> Any:
    """Turn a value into what JSON can hold.

    Args:
        value: any nest of dataclasses, mappings, sequences, paths, strings, numbers, and NumPy
            or JAX arrays.

    Returns:
        The same nest of dict, list, str, int, float, bool and None; non-finite floats are None.

    Raises:
        ValueError: a value of another type.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return [plain(item) for item in items]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return plain(np.asarray(value).tolist())
    rule = "it must be a nest of plain numbers, strings, lists and mappings"
    raise refuse("value for JSON", value, rule, "convert it first")


def write_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` so that readers see the old file or all of the new one.

    Args:
        path: the destination; its folder exists.
        text: the whole content.
    """
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json_atomic(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` as indented JSON, atomically, with `null` for numbers that are not finite.

    Args:
        path: the destination; its folder exists.
        obj: what `plain` accepts.

    Raises:
        ValueError: a value that JSON cannot hold; nothing is written.
    """
    write_atomic(path, json.dumps(plain(obj), indent=2, allow_nan=False) + "\n")


def seal_of(content: Mapping[str, Any]) -> str:
    """Return the sha256 of a record's content, its own entry `seal` left out."""
    kept = {name: value for name, value in content.items() if name != "seal"}
    return hashlib.sha256(json.dumps(plain(kept), sort_keys=True).encode()).hexdigest()


def write_sealed(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a record as JSON, atomically, with its seal as one more entry."""
    write_json_atomic(path, {**content, "seal": seal_of(content)})


def read_sealed(path: str | os.PathLike[str], *, name: str, repair: str) -> dict[str, Any]:
    """Return the record that `write_sealed` wrote; arguments and errors as of `read_json`."""
    content = read_json(path, name=name, repair=repair)
    if content.pop("seal", None) != seal_of(content):
        raise refuse(name, os.fspath(path), CHANGED, repair)
    return content


def read_json(
    path: str | os.PathLike[str],
    *,
    name: str = "file",
    repair: str = "restore it or give another folder",
) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        name: of the argument that led to it, for the words of an error.
        repair: what to do where it cannot be read.

    Returns:
        The object as a dict.

    Raises:
        ValueError: the file is missing, is not JSON or holds something else than an object.
    """
    path = Path(path)
    if not path.is_file():
        raise refuse(name, str(path), "there is no such file", repair)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise refuse(name, str(path), f"it cannot be read as JSON ({error})", repair) from error
    if not isinstance(content, dict):
        raise refuse(name, str(path), "it holds no JSON object", repair)
    return content
