"""Decoder language models from Hugging Face folders, and back.

A folder holds ``config.json`` and ``model.safetensors``, or several weight files with an index.
Tokenizers and chat templates are read by transformers::

    folder = "Llama-3.2-1B"
    config, params, record = load_decoder(folder)
    model = language_model(config, dtype=jnp.bfloat16)
    tokenizer = load_tokenizer(folder)
    ...
    save_decoder("tuned", record, params)
"""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike

from ctrl_jax._checks import refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax._records import read_json, write_atomic
from ctrl_jax._sums import check_sums
from ctrl_jax._typing import Params
from ctrl_jax.networks.language.config import DecoderConfig
from ctrl_jax.networks.language.decoder import language_model
from ctrl_jax.networks.sharding import partition_specs
from ctrl_jax.pretrained.key_table import fill, named_leaves, unfill
from ctrl_jax.pretrained.language.names import FAMILIES, Family, buffers, decoder_table
from ctrl_jax.pretrained.language.record import read_entries, read_record
from ctrl_jax.pretrained.safetensors_file import write_safetensors
from ctrl_jax.pretrained.weight_files import INDEX, SINGLE, read_weights

FLOATS = (np.float32, np.float16, jnp.bfloat16)


class PretrainedDecoder(NamedTuple):
    """A decoder with its weights.

    Fields:
        config: its description, for `language_model`.
        params: its weights.
        record: the content of its config.json, for `save_decoder`.
    """

    config: DecoderConfig
    params: Params
    record: dict[str, Any]


def load_decoder(
    folder: str | os.PathLike[str],
    *,
    param_dtype: DTypeLike = jnp.float32,
    mesh: Mesh | None = None,
    fully: bool = False,
) -> PretrainedDecoder:
    """Return the decoder of a folder.

    Args:
        folder: a GPT-2, GPT-NeoX, Llama, Mistral, Qwen 2 or 3, Gemma 2 or 3 (text), Phi-3 or 4,
            SmolLM3 or OLMo 2 model as transformers saves it.
        param_dtype: type of the weights; those of the files, float32, float16 or bfloat16, are
            converted to it.
        mesh: with axes ``data`` and ``model``, over which the weights are divided as they are read;
            None for the default device.
        fully: whether they are divided over ``data`` too (`partition_specs`).

    Warns:
        RunWarning: entries of config.json, or files, that are read over.

    Raises:
        ValueError: a file is missing, truncated or damaged, the model is of another kind, or its
            weights do not fit its description; `fully` without a mesh.
    """
    if fully and mesh is None:
        raise refuse("load_decoder.fully", fully, "it needs a mesh", "give one")
    check_sums(folder)
    record = read_json(
        Path(folder) / "config.json", name="model", repair="give the folder of a saved model"
    )
    config, over = read_entries(record)
    if over:
        note = f"config.json: {', '.join(over)} read over; the network does not depend on it"
        warnings.warn(note, RunWarning, stacklevel=2)
    family = FAMILIES[record["model_type"]]
    arrays = _with_prefix(family, read_weights(folder))
    if config.tied and family.tokens not in arrays and family.head in arrays:
        arrays[family.tokens] = arrays.pop(family.head)
    target = language_model(config, param_dtype=param_dtype).shapes
    ignored = buffers(family, config.depth)
    if config.tied and family.head in arrays:
        _check_tied(arrays[family.head], arrays.get(family.tokens), family)
        ignored.append(family.head)
    table = decoder_table(family, config, target)
    shardings = None
    if mesh is not None:
        specs = partition_specs(target, mesh, fully=fully)
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    params = fill(target, table, arrays, ignored=ignored, converted=FLOATS, shardings=shardings)
    return PretrainedDecoder(config, params, record)


def save_decoder(folder: str | os.PathLike[str], record: Mapping[str, Any], params: Params) -> None:
    """Write a folder that transformers loads, in the parameters' own dtype.

    Args:
        folder: created if absent; must not hold a model yet.
        record: the content of its config.json, by `load_decoder` or written by hand.
        params: the weights of the decoder it describes, without adapters (`lora.merge`); all of
            them within reach of this process.

    Raises:
        ValueError: the folder holds a model, or the parameters do not fit the record.
    """
    folder, config = Path(folder), read_record(record)
    present = [name for name in ("config.json", SINGLE, INDEX) if (folder / name).exists()]
    if present:
        raise refuse("folder", str(folder), f"it holds {present[0]} already", "give another")
    leaves = named_leaves(params)
    _check_shapes(leaves, named_leaves(language_model(config).shapes))
    family = FAMILIES[record["model_type"]]
    arrays = unfill(params, decoder_table(family, config, params))
    dtype = next(iter(leaves.values())).dtype
    # One class, one dtype: of the parameters, whatever they were loaded from.
    saved = {name: value for name, value in record.items() if name != "torch_dtype"}
    saved |= {"architectures": [family.causal], "dtype": jnp.dtype(dtype).name}
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / SINGLE, arrays)
    write_atomic(folder / "config.json", json.dumps(saved, indent=2) + "\n")


def _with_prefix(family: Family, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays under their full names: without a head, transformers leaves the prefix out."""
    prefix = family.tokens.split(".")[0] + "."
    if any(name.startswith(prefix) for name in arrays):
        return arrays
    return {name if name == family.head else prefix + name: array for name, array in arrays.items()}


def _check_tied(head: np.ndarray, tokens: np.ndarray | None, family: Family) -> None:
    if tokens is None or not np.array_equal(head, tokens):
        rule = f"it differs from {family.tokens}, though config.json says tie_word_embeddings"
        raise refuse(
            f"weights: {family.head}", head, rule, "set it to false if the head is its own"
        )


def _check_shapes(leaves: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    wrong = sorted(leaves.keys() ^ target.keys()) or [
        path for path, leaf in leaves.items() if leaf.shape != target[path].shape
    ]
    if wrong:
        rule = f"they differ from what the record describes at {', '.join(wrong[:5])}"
        repair = "merge adapters first, or give the record of this model"
        raise refuse("params", f"{len(leaves)} arrays", rule, repair)
