"""The weights of a Hugging Face folder: one safetensors file, or several with an index.

transformers names them ``model``, diffusers ``diffusion_pytorch_model``; a variant such as fp16
stands before the ending, ``model.fp16.safetensors`` or ``model.safetensors.index.fp16.json``.
"""

import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ctrl_jax._checks import refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax._records import read_json
from ctrl_jax.pretrained.safetensors_file import read_safetensors

PART = re.compile(r".*-(?P<number>\d+)-of-(?P<total>\d+)(\.[a-z0-9]+)?\.safetensors")
WEIGHTS = re.compile(r"\.(bin|pt|pth|h5|msgpack|gguf|onnx|ckpt|npz|safetensors)$")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_weights(
    folder: str | os.PathLike[str], *, stem: str = "model", variant: str | None = None
) -> dict[str, np.ndarray]:
    """Return the arrays of a folder by name, read-only and mapped from the disk.

    Args:
        folder: holds ``STEM.safetensors``; or ``STEM.safetensors.index.json`` and the files it
            names; or files ``STEM-00001-of-00002.safetensors`` and so on, all of them.
        stem: of the files' names.
        variant: of the files, such as fp16; None for those without one, or, where there are none,
            for the only one that there is.

    Warns:
        RunWarning: weights in several ways, of which one is read; a variant that was not asked for.

    Raises:
        ValueError: a file is missing or damaged, or index and files disagree.
    """
    folder = Path(folder)
    if variant is None and not _plain(folder, stem):
        variant = _only_variant(folder, stem)
        if variant is not None:
            _note(folder, f"its weights are read from the variant {variant}, the only one there")
    dotted = f".{variant}" if variant else ""
    single, index = f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json"
    parts = sorted(p for p in folder.glob("*.safetensors") if _is_part(p, stem, variant))
    if (folder / single).is_file():
        others = [path.name for path in (folder / index, *parts) if path.is_file()]
        if others:
            _note(folder, f"{single} is read, as by transformers, not {_some(others)} beside it")
        return read_safetensors(folder / single)
    if (folder / index).is_file():
        return _read_index(folder, index)
    if not parts and variant is not None:
        present = _some(
            sorted(p.name for p in folder.glob("*") if WEIGHTS.search(p.name)) or ["none"]
        )
        rule = f"of weights {folder} holds {present}"
        raise refuse("variant", variant, rule, "give a variant that is there, or leave it out")
    if not parts:
        raise _nothing(folder, single, index)
    _check_all(folder, parts)
    _note(folder, f"{_some([path.name for path in parts])} are read without {index}")
    arrays: dict[str, np.ndarray] = {}
    for path in parts:
        found = read_safetensors(path)
        twice = sorted(found.keys() & arrays.keys())
        if twice:
            rule = f"{', '.join(twice[:5])} stand in a file before it too"
            raise refuse("model", str(path), rule, f"restore {index}")
        arrays |= found
    return arrays


def _plain(folder: Path, stem: str) -> bool:
    """Whether there are weights that are no variant."""
    names = (f"{stem}.safetensors", f"{stem}.safetensors.index.json")
    parts = any(_is_part(path, stem, None) for path in folder.glob("*.safetensors"))
    return parts or any((folder / name).is_file() for name in names)


def _only_variant(folder: Path, stem: str) -> str | None:
    """The one variant of the weights; None where there is none or several."""
    name = re.compile(
        rf"{re.escape(stem)}\.(?P<single>[a-z0-9]+)\.safetensors"
        rf"|{re.escape(stem)}\.safetensors\.index\.(?P<index>[a-z0-9]+)\.json"
    )
    matches = [name.fullmatch(path.name) for path in folder.glob(f"{stem}.*")]
    found = {match["single"] or match["index"] for match in matches if match}
    return found.pop() if len(found) == 1 else None


def _is_part(path: Path, stem: str, variant: str | None) -> bool:
    match = PART.fullmatch(path.name)
    dotted = f".{variant}" if variant else ""
    return bool(match) and path.name in {
        f"{stem}{before}-{match['number']}-of-{match['total']}{after}.safetensors"
        for before, after in ((dotted, ""), ("", dotted))
    }


def _check_all(folder: Path, parts: list[Path]) -> None:
    """Refuse files of which some are missing, or which are of several models."""
    numbers = [PART.fullmatch(path.name) for path in parts]
    totals = {int(match["total"]) for match in numbers if match}
    have = {int(match["number"]) for match in numbers if match}
    missing = sorted({*range(1, max(totals) + 1)} - have)
    if missing or len(totals) > 1 or len(parts) != max(totals):
        rule = f"it holds {_some([path.name for path in parts])}, which are not all of one model"
        raise refuse("model", str(folder), rule, "fetch the others, and the index")


def _nothing(folder: Path, single: str, index: str) -> ValueError:
    """The error about a folder without weights that can be read, saying what it holds."""
    present = sorted(p.name for p in folder.glob("*") if WEIGHTS.search(p.name))
    if not present:
        rule, repair = f"it holds neither {single} nor {index}", "give the folder of a saved model"
    elif any(name.startswith("adapter_model") for name in present):
        rule = f"it holds {_some(present)}: adapters without the model that they are of"
        repair = "give the model's folder, or that of both merged"
    elif single in present or (folder / index).is_symlink():
        name = single if single in present else index
        rule, repair = f"{name} there is no file, or a link to none", "copy what it links to"
    else:
        rule = f"of weights it holds {_some(present)} only, which are not read"
        repair = (
            "write safetensors in it with PyTorch and the library that it is of: "
            "from_pretrained(folder).save_pretrained(folder)"
        )
    return refuse("model", str(folder), rule, repair)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _note(folder: Path, text: str) -> None:
    warnings.warn(f"{folder}: {text}", RunWarning, stacklevel=4)


def _read_index(folder: Path, index: str) -> dict[str, np.ndarray]:
    places = read_json(folder / index, name="model", repair="fetch it again").get("weight_map")
    if not isinstance(places, dict) or not all(map(_is_file_name, places.values())):
        rule = "its weight_map must name a file of this folder for every array"
        raise refuse("model", str(folder / index), rule, "fetch it again")
    absent = sorted({name for name in places.values() if not (folder / name).is_file()})
    if absent:
        rule = f"its index names {_some(absent)}, which the folder does not hold"
        raise refuse("model", str(folder), rule, "fetch what is missing")
    arrays: dict[str, np.ndarray] = {}
    for name in sorted(set(places.values())):
        found = read_safetensors(folder / name)
        wanted = {key for key, place in places.items() if place == name}
        if found.keys() != wanted:
            differences = ", ".join(sorted(found.keys() ^ wanted)[:5])
            rule = f"the index disagrees about {differences}"
            raise refuse("model", str(folder / name), rule, "fetch both again")
        arrays |= found
    return arrays


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name
