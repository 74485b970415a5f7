"""The weights of a Hugging Face folder: one safetensors file, or several with an index."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ctrl_jax._checks import refuse
from ctrl_jax._records import read_json
from ctrl_jax.pretrained.safetensors_file import read_safetensors

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_weights(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of a folder by name, read-only and mapped from the disk.

    Args:
        folder: holds ``model.safetensors``, or ``model.safetensors.index.json`` and the files it
            names.

    Raises:
        ValueError: a file is missing or damaged, or index and files disagree.
    """
    folder = Path(folder)
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return read_safetensors(folder / SINGLE)
    places = read_json(folder / INDEX, name="model", repair="fetch it again").get("weight_map")
    if not isinstance(places, dict) or not all(map(_is_file_name, places.values())):
        rule = "its weight_map must name a file of this folder for every array"
        raise refuse("model", str(folder / INDEX), rule, "fetch it again")
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
