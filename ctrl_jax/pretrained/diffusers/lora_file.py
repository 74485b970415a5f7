r"""Files of low-rank adapters of a pipeline, as diffusers, PEFT and kohya's scripts write them.

A layer W (outputs, inputs) is adapted to W + (alpha / rank) B A, A (rank, inputs), B (outputs,
rank). For the layer L of the network P a file calls them

    P.L.lora_A.weight, P.L.lora_B.weight                                        (PEFT)
    P.L.lora.down.weight, P.L.lora.up.weight                                    (diffusers)
    P.L.lora_linear_layer.down.weight, ...                                      (diffusers, text)
    P.M.processor.to_q_lora.down.weight, ...  with L = M.to_q                   (old diffusers)
    lora_unet_L.lora_down.weight, ..., lora_unet_L.alpha   with _ for . in L    (kohya)

where kohya's L is also read by its name of `original_names`, as for Stable Diffusion XL. alpha is
the rank unless the file says otherwise, in its metadata (diffusers) or in arrays (kohya). Here
alpha / rank is multiplied into B and the rank made the same for all layers, with zeros, so that one
`LoRA` describes them. Files that are written here are PEFT's, with alpha = rank, which every reader
takes alike.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ctrl_jax._checks import refuse
from ctrl_jax._typing import Params
from ctrl_jax.networks.lora import A, B, LoRA
from ctrl_jax.pretrained.diffusers.original_names import original_names
from ctrl_jax.pretrained.key_table import Source, named_leaves
from ctrl_jax.pretrained.safetensors_file import read_metadata, read_safetensors, write_safetensors

PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
NAME = "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"
KOHYA = {
    "lora_unet_": "unet",
    "lora_transformer_": "transformer",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
ROLES = (
    (re.compile(r"(?P<layer>.+)\.lora_(?P<role>[AB])(\.default)?\.weight"), "{layer}"),
    (re.compile(r"(?P<layer>.+)\.lora(_linear_layer)?\.(?P<role>down|up)\.weight"), "{layer}"),
    (
        re.compile(
            r"(?P<layer>.+)(\.processor)?\.(?P<last>to_q|to_k|to_v)_lora\.(?P<role>down|up)\.weight"
        ),
        "{layer}.{last}",
    ),
    (
        re.compile(r"(?P<layer>.+)(\.processor)?\.to_out_lora\.(?P<role>down|up)\.weight"),
        "{layer}.to_out.0",
    ),
    (re.compile(r"(?P<layer>.+)\.lora_(?P<role>down|up)\.weight"), "{layer}"),
    (re.compile(r"(?P<layer>.+)\.(?P<role>alpha)"), "{layer}"),
)
FACTORS = {"A": "a", "down": "a", "B": "b", "up": "b", "alpha": "alpha"}


class LayerFactors(NamedTuple):
    """The adapter of one layer, alpha / rank multiplied into b.

    Fields:
        a: (rank, inputs), or (rank, inputs, h, w) of a convolution.
        b: (outputs, rank), or (outputs, rank, 1, 1).
    """

    a: np.ndarray
    b: np.ndarray


def read_lora(path: str | os.PathLike[str]) -> dict[str, dict[str, LayerFactors]]:
    """Return the adapters of a file by network and by layer, as the file names them.

    Args:
        path: the safetensors file, or a folder that holds ``pytorch_lora_weights.safetensors``.
            The layers of files in kohya's form keep their underscores, after ``kohya:``.

    Raises:
        ValueError: the file is missing or damaged, holds something else than low-rank adapters of
            these forms, or half of one.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for key, array in read_safetensors(path).items():
        part, layer, role = _parsed(path, key)
        factors = found.setdefault((part, layer), {})
        if role in factors:
            raise _refused(path, key, "it stands there in two forms", "leave one of them out")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            rule = f"it is {array.dtype}, and adapters are floating numbers"
            raise _refused(path, key, rule, "give the file before it was quantized")
        factors[role] = np.asarray(array, np.float32)
        if not np.isfinite(factors[role]).all() or not array.size:
            rule = "it is empty, or holds what is no number"
            raise _refused(path, key, rule, "save the adapters again")
    told = _told(path)
    layers: dict[str, dict[str, LayerFactors]] = {}
    for (part, layer), factors in found.items():
        if not {"a", "b"} <= factors.keys():
            raise _refused(
                path, f"{part}.{layer}", "half of its adapter is missing", "save it again"
            )
        a, b = factors["a"], factors["b"]
        if a.ndim not in (2, 4) or a.ndim != b.ndim or a.shape[0] != b.shape[1]:
            rule = f"its factors have shapes {a.shape} and {b.shape}"
            raise _refused(path, f"{part}.{layer}", rule, "save it again")
        rank = a.shape[0]
        try:
            scale = _scale(told.get(part, {}), layer, rank)
        except (TypeError, ValueError, AttributeError, re.error) as error:
            rule = f"what it says of alpha cannot be read ({error})"
            raise _refused(path, METADATA, rule, "save it again") from error
        if "alpha" in factors:
            scale = float(factors["alpha"].reshape(-1)[0]) / rank
        layers.setdefault(part, {})[layer] = LayerFactors(a, b * np.float32(scale))
    if not layers:
        raise refuse("lora", str(path), "it holds no adapter", "give a file of adapters")
    return layers


def adapters_of(
    part: str, layers: Mapping[str, LayerFactors], shapes: Any, table: Mapping[str, Source]
) -> tuple[LoRA, Params]:
    """Return the adapters of a network, and their description.

    Args:
        part: the network's name in the pipeline, for errors.
        layers: its adapters by layer, by `read_lora`.
        shapes: its parameters without adapters, arrays or abstract ones.
        table: its key table.

    Raises:
        ValueError: the network lacks a layer of the file, or it has another size.
    """
    places = _layers_of(shapes, table)
    rank = max(factors.a.shape[0] for factors in layers.values())
    leaves = named_leaves(shapes)
    targets: dict[str, None] = {}
    tree: Params = {}
    for name, factors in layers.items():
        place = places.get(name) or places.get(_with_prefix(name))
        if place is None:
            rule = f"the {part} has no such layer"
            raise refuse(f"lora: {part}.{name}", factors.a.shape, rule, "give the model it is of")
        path, number = place
        kernel = leaves[f"{path}.kernel"]
        node = _node(tree, path, shapes)
        if A not in node:
            stacked = kernel.shape[:1] if table[f"{path}.kernel"].numbers else ()
            shape = kernel.shape[len(stacked) :]
            narrow = (1,) * (len(shape) - 2)
            node[A] = np.zeros((*stacked, *shape[:-1], rank), np.float32)
            node[B] = np.zeros((*stacked, *narrow, rank, shape[-1]), np.float32)
        targets[path] = None
        for key, array in ((A, factors.a), (B, factors.b)):
            whole = node[key] if number is None else node[key][number]
            _put(whole, array, key, f"lora: {part}.{name}")
    return LoRA(rank, float(rank), tuple(targets)), tree


def write_lora(
    path: str | os.PathLike[str],
    adapters: Mapping[str, tuple[LoRA, Params, Mapping[str, Source]]],
) -> None:
    """Write the adapters of a pipeline to a file that diffusers' `load_lora_weights` takes.

    Args:
        path: the file.
        adapters: by network, such as ``unet``: the description, the adapters alone (`lora.split`)
            and the key table of the network without them.

    Raises:
        ValueError: there is no adapter.
    """
    arrays: dict[str, np.ndarray] = {}
    for part, (lora, tree, table) in adapters.items():
        for leaf_path, leaf in named_leaves(tree).items():
            path_of, _, last = leaf_path.rpartition(".")
            source = table[f"{path_of}.kernel"]
            whole = np.asarray(leaf)
            if last == B:
                whole = (whole.astype(np.float32) * np.float32(lora.scale)).astype(whole.dtype)
            letter = "A" if last == A else "B"
            rows = whole[None] if source.numbers is None else whole
            for key, one in zip(source.keys, rows, strict=True):
                layer = key.removesuffix(".weight")
                axes = (1, 0) if one.ndim == 2 else (3, 2, 0, 1)
                arrays[f"{part}.{layer}.lora_{letter}.weight"] = np.transpose(one, axes)
    if not arrays:
        raise refuse("lora", str(path), "there is no adapter to write", "adapt a network first")
    # Without metadata: readers then take alpha for the rank, whatever they call the layers.
    write_safetensors(path, arrays)


def _parsed(path: Path, key: str) -> tuple[str, str, str]:
    """The network, the layer and the factor of a key."""
    for pattern, form in ROLES:
        if match := pattern.fullmatch(key):
            layer = form.format(**match.groupdict()).removeprefix("base_model.model.")
            layer = layer.replace(".processor.", ".")
            role = FACTORS[match["role"]]
            for prefix, part in KOHYA.items():
                if layer.startswith(prefix):
                    return part, f"kohya:{layer.removeprefix(prefix)}", role
            part, _, rest = layer.partition(".")
            # A file without networks' names is of the one that makes the pictures.
            return (part, rest, role) if part in PARTS else ("", layer, role)
    rule = "it is no factor of a low-rank adapter"
    raise _refused(path, key, rule, "give a file of plain LoRA (no DoRA, LoKr or LoHa)")


def _told(path: Path) -> dict[str, dict[str, Any]]:
    """What the file's metadata says of every network."""
    text = read_metadata(path).get(METADATA)
    if text is None:
        return {}
    try:
        entries = json.loads(text)
        pairs = [(key.partition("."), value) for key, value in entries.items()]
    except (ValueError, AttributeError) as error:
        raise _refused(
            path, METADATA, f"it is no JSON object ({error})", "save it again"
        ) from error
    told: dict[str, dict[str, Any]] = {}
    for (part, _, name), value in pairs:
        told.setdefault(part, {})[name] = value
    for part, entries in told.items():
        if entries.get("use_dora"):
            raise _refused(
                path, f"{part}.use_dora", "DoRA is not implemented", "merge it elsewhere"
            )
    return told


def _scale(told: Mapping[str, Any], layer: str, rank: int) -> float:
    patterns = told.get("alpha_pattern") or {}
    fitting = (value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", layer))
    alpha = next(fitting, told.get("lora_alpha"))  # the first, as in PEFT
    if alpha is None:
        return 1.0
    return float(alpha) / (rank**0.5 if told.get("use_rslora") else rank)


def _layers_of(shapes: Any, table: Mapping[str, Source]) -> dict[str, tuple[str, int | None]]:
    """Every layer with a kernel by its names in files: our path, and its place in a stack."""
    places: dict[str, tuple[str, int | None]] = {}
    for leaf_path in named_leaves(shapes):
        path, _, last = leaf_path.rpartition(".")
        if last == "kernel":
            source = table[leaf_path]
            for number, key in enumerate(source.keys):
                layer = key.removesuffix(".weight")
                places[layer] = path, (None if source.numbers is None else number)
    layers = {**places}
    named = [*original_names(layers).items(), *zip(layers, layers, strict=True)]
    return places | {f"kohya:{name.replace('.', '_')}": layers[layer] for layer, name in named}


def _with_prefix(name: str) -> str:
    """The name of a text encoder's layer with its prefix, or without: files have both."""
    if name.startswith("kohya:"):
        return name.replace("kohya:text_model_", "kohya:", 1)
    prefix = "text_model."
    return name.removeprefix(prefix) if name.startswith(prefix) else prefix + name


def _node(tree: Params, path: str, like: Any) -> Params:
    """The dictionary at a path, made where it is missing, under the keys of a tree like it."""
    for name in path.split("."):
        key = name if name in like else int(name)
        tree, like = tree.setdefault(key, {}), like[key]
    return tree


def _put(whole: np.ndarray, array: np.ndarray, key: str, name: str) -> None:
    """Write a factor of a file where the network has it, in the first rows of its rank."""
    factor = np.transpose(array, (1, 0) if array.ndim == 2 else (2, 3, 1, 0))
    if whole.ndim == 2 and factor.shape[:2] == (1, 1):
        factor = factor[0, 0]
    if whole.ndim == 4 and factor.ndim == 2:
        factor = factor[None, None]
    rank = factor.shape[-1] if key == A else factor.shape[-2]
    part = whole[..., :rank] if key == A else whole[..., :rank, :]
    if part.shape != factor.shape:
        rule = f"the network needs {part.shape}"
        raise refuse(name, factor.shape, rule, "give the model it is of")
    part[...] = factor


def _refused(path: Path, key: str, rule: str, repair: str) -> ValueError:
    return refuse("lora", f"{key} of {path}", rule, repair)
