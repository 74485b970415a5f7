"""A pipeline on disk again: a folder that diffusers loads, or a file of its adapters.

Whatever was not trained is copied byte for byte. Of a part whose weights are others than the
folder's, they are written anew, in one file and in their own type; weights of other forms beside
them, which would be the old ones, are left out.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from ctrl_jax._checks import refuse
from ctrl_jax._records import read_json
from ctrl_jax._sums import write_sums
from ctrl_jax._typing import Params
from ctrl_jax._whole import whole_folder
from ctrl_jax.networks.lora import merge, split
from ctrl_jax.pretrained.diffusers.lora_file import write_lora
from ctrl_jax.pretrained.diffusers.parts import Part
from ctrl_jax.pretrained.diffusers.pipeline import Pipeline
from ctrl_jax.pretrained.key_table import unfill
from ctrl_jax.pretrained.safetensors_file import write_safetensors
from ctrl_jax.pretrained.weight_files import WEIGHTS, read_weights

OF_WEIGHTS = (".index.json", ".msgpack")


def save_pipeline(
    folder: str | os.PathLike[str],
    pipeline: Pipeline,
    params: Mapping[str, Params] | None = None,
    *,
    replace: bool = False,
    sums: bool = False,
) -> None:
    """Write a folder that diffusers loads, adapters added to their kernels.

    Args:
        folder: created, the whole of it or nothing.
        pipeline: by `load_pipeline`, whose own folder is still there.
        params: weights by part, such as ``{"unet": params}``; the pipeline's for the others. With
            adapters where the pipeline's part has them.
        replace: whether a folder that is there is replaced.
        sums: whether ``files.sha256`` is written too, by which whoever loads the folder here
            notices a file that was damaged or changed.

    Raises:
        ValueError: the folder exists, a part is unknown, or weights do not fit it.
    """
    folder = Path(folder)
    if folder.exists() and not replace:
        raise refuse("folder", str(folder), "it exists already", "give another")
    params = _all_params(pipeline, params)
    with whole_folder(folder, replace=replace) as unfinished:
        _fill(unfinished, pipeline, params)
        if sums:
            write_sums(unfinished)


def _fill(folder: Path, pipeline: Pipeline, params: Mapping[str, Params]) -> None:
    """Write everything of a pipeline into a folder that is empty."""
    source = pipeline.folder
    for path in sorted(source.iterdir()):
        if path.is_file() and not _is_weights(path):
            shutil.copyfile(path, folder / path.name)
        elif path.is_dir() and path.name in pipeline.index and not path.name.startswith("."):
            _copy_folder(path, folder / path.name)
    for name, part in pipeline.parts.items():
        own = params[name]
        if name in pipeline.lora:
            own = merge(own, pipeline.lora[name])
        arrays = unfill(jax.device_get(own), part.table)
        if not _holds(source / name, part, arrays, pipeline.variant):
            _write_part(folder / name, part, arrays)


def save_lora(
    path: str | os.PathLike[str],
    pipeline: Pipeline,
    params: Mapping[str, Params] | None = None,
) -> None:
    """Write the adapters of a pipeline to a file that diffusers' `load_lora_weights` takes.

    alpha / rank is multiplied into the second factor, so that every reader takes them alike.

    Args:
        path: the safetensors file; one that exists is replaced.
        pipeline: with adapters, by `Pipeline.adapt` or `Pipeline.with_lora`.
        params: weights by part, such as ``{"unet": params}``; the pipeline's for the others.

    Raises:
        ValueError: the pipeline has no adapters, or a part is unknown.
    """
    params = _all_params(pipeline, params)
    write_lora(
        path,
        {
            name: (lora, jax.device_get(split(params[name])[0]), pipeline.parts[name].table)
            for name, lora in pipeline.lora.items()
        },
    )


def _all_params(pipeline: Pipeline, params: Mapping[str, Params] | None) -> dict[str, Params]:
    unknown = sorted({*(params or {})} - {*pipeline.parts})
    if unknown:
        rule = f"the pipeline has {', '.join(pipeline.parts)}"
        raise refuse("params", unknown[0], rule, "give weights of some of these")
    return {**pipeline.params, **(params or {})}


def _is_weights(path: Path) -> bool:
    return bool(WEIGHTS.search(path.name)) or path.name.endswith(OF_WEIGHTS)


def _copy_folder(source: Path, target: Path) -> None:
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)


def _holds(folder: Path, part: Part, arrays: Mapping[str, np.ndarray], variant: str | None) -> bool:
    """Whether the weights are those that the folder holds already, up to their type there."""
    found = part.kind.arrays(read_weights(folder, stem=part.kind.stem, variant=variant))
    return all(
        np.array_equal(array, np.asarray(found[key], array.dtype)) for key, array in arrays.items()
    )


def _write_part(folder: Path, part: Part, arrays: Mapping[str, np.ndarray]) -> None:
    for path in [*folder.iterdir()]:
        if _is_weights(path) or ".index." in path.name:
            path.unlink()
    write_safetensors(folder / f"{part.kind.stem}.safetensors", arrays)
    record = read_json(folder / "config.json")
    # Texts' encoders are loaded in the type that their record says.
    said = [name for name in ("dtype", "torch_dtype") if name in record]
    dtype = next(iter(arrays.values())).dtype.name
    if said and record[said[0]] != dtype:
        changed = record | dict.fromkeys(said, dtype)
        text = json.dumps(changed, indent=2) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
