r"""Low-rank adapters of a decoder as the library PEFT reads them: a record and a file of weights.

PEFT adapts the layers that a file names. Where a family keeps queries, keys and values in one
array, its one layer carries the adapters of the three: with A = (A_1 ... A_m), B block by block,

    x A B = (x A_1 B_1, ..., x A_m B_m),                                                     (1)

of rank m r and of m times alpha, so that the scale alpha / r is the same.
"""

import collections
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctrl_jax._checks import refuse
from ctrl_jax._records import write_atomic
from ctrl_jax._typing import Params
from ctrl_jax.networks.language.decoder import language_model
from ctrl_jax.networks.lora import A, B, LoRA
from ctrl_jax.pretrained.key_table import Source, named_leaves, unfill
from ctrl_jax.pretrained.language.names import FAMILIES, decoder_table
from ctrl_jax.pretrained.language.record import read_record
from ctrl_jax.pretrained.safetensors_file import write_safetensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class _Adapted(NamedTuple):
    """One layer of the files with the adapters that lie in it, (inputs, r) and (r, outputs)."""

    kernels: dict[str, Source]
    shapes: dict[str, tuple[int, ...]]
    factors: list[tuple[str, np.ndarray, np.ndarray]]


def save_adapters(
    folder: str | os.PathLike[str],
    record: Mapping[str, Any],
    adapters: Params,
    lora: LoRA,
    *,
    base: str | os.PathLike[str],
) -> None:
    """Write a folder that PEFT loads on top of the model that was adapted.

    Args:
        folder: created if absent; must hold no adapters yet.
        record: the content of the model's config.json, by `load_decoder`.
        adapters: what `lora.split` takes out of the parameters; within reach of this process.
        lora: the description they were made with.
        base: where the model is, which PEFT loads first.

    Raises:
        ValueError: the folder holds adapters, or these are of another rank or model.
    """
    folder = Path(folder)
    if (folder / CONFIG).exists():
        raise refuse("folder", str(folder), f"it holds {CONFIG} already", "give another")
    layers = _layers(record, adapters, lora)
    arrays: dict[str, np.ndarray] = {}
    for module, layer in layers.items():
        first, second = _factors(layer)
        arrays[f"base_model.model.{module}.lora_A.weight"] = np.ascontiguousarray(first.T)
        arrays[f"base_model.model.{module}.lora_B.weight"] = second
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS, arrays)
    text = json.dumps(_describe(layers, lora, os.fspath(base)), indent=2) + "\n"
    write_atomic(folder / CONFIG, text)


def _layers(record: Mapping[str, Any], adapters: Params, lora: LoRA) -> dict[str, _Adapted]:
    """Return the adapted layers by the names they have in the files."""
    config = read_record(dict(record))
    target = language_model(config).shapes
    table = decoder_table(FAMILIES[record["model_type"]], config, target)
    shapes = {name: leaf.shape for name, leaf in named_leaves(target).items()}
    leaves = named_leaves(adapters)
    found: dict[str, _Adapted] = {}
    for path in sorted({name.rpartition(".")[0] for name in leaves}):
        source = table.get(f"{path}.kernel")
        both = [np.asarray(leaves.get(f"{path}.{name}", np.zeros((0, 0)))) for name in (A, B)]
        if source is None or not both[0].shape[1] == both[1].shape[0] == lora.rank:
            rule = f"{path} is no adapter of rank {lora.rank} of a layer of this model"
            raise refuse("adapters", f"{len(leaves)} arrays", rule, "give those of lora.split")
        kernels = {name: other for name, other in table.items() if other.key == source.key}
        own = {name: shapes[name] for name in kernels}
        layer = found.setdefault(source.key.removesuffix(".weight"), _Adapted(kernels, own, []))
        layer.factors.append((f"{path}.kernel", both[0], both[1]))
    if not found:
        raise refuse("adapters", "no arrays", "there is nothing to save", "give those of a LoRA")
    return found


def _factors(layer: _Adapted) -> tuple[np.ndarray, np.ndarray]:
    """Return A (inputs, m r) and B (outputs, m r), its outputs in the order of the file."""
    seconds = [_outputs_in_file(layer, path, b) for path, _, b in layer.factors]
    return np.concatenate([a for _, a, _ in layer.factors], axis=1), np.concatenate(seconds, axis=1)


def _outputs_in_file(layer: _Adapted, path: str, b: np.ndarray) -> np.ndarray:
    """Return B (r, outputs) as the file has the outputs of its layer, (outputs, r).

    Its rows take the place of rows of the kernel, and go the kernel's way into the file.
    """
    inputs = layer.shapes[path][0]
    found = []
    for start in range(0, len(b), inputs):
        rows = b[start : start + inputs]
        tree = {name: np.zeros(shape, b.dtype) for name, shape in layer.shapes.items()}
        tree[path][: len(rows)] = rows
        (array,) = unfill(_nested(tree), layer.kernels).values()
        array = array if layer.kernels[path].axes is not None else array.T
        found.append(array[:, : len(rows)])
    return np.concatenate(found, axis=1)


def _nested(leaves: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split(".")
        place = tree
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = leaf
    return tree


def _describe(layers: Mapping[str, _Adapted], lora: LoRA, base: str) -> dict[str, Any]:
    # "model.layers.3.self_attn.q_proj" is named by what follows the number of its block.
    parts = {re.sub(r"^.*?\.\d+\.", "", name): layer for name, layer in layers.items()}
    number = {name: len(layer.factors) for name, layer in parts.items()}
    usual = collections.Counter(number.values()).most_common(1)[0][0]
    others = {name: m for name, m in number.items() if m != usual}
    stored = next(iter(next(iter(layers.values())).kernels.values()))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": usual * lora.rank,
        "lora_alpha": usual * lora.alpha,
        "rank_pattern": {name: m * lora.rank for name, m in others.items()},
        "alpha_pattern": {name: m * lora.alpha for name, m in others.items()},
        "target_modules": sorted(parts),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": stored.axes is None,
        "inference_mode": True,
    }
