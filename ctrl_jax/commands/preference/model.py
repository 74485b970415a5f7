"""The model that is trained: read from a folder, with or without adapters, and written back."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ctrl_jax._typing import Params
from ctrl_jax.data import load_tokenizer
from ctrl_jax.networks import LanguageModel, LoRA, language_model, lora, partition_specs
from ctrl_jax.pretrained import PretrainedDecoder, load_decoder, save_decoder
from ctrl_jax.runtime import refuse

MODEL = "model"
"""The folder of the trained model, in that of the run."""


class Trained(NamedTuple):
    """A model with its tokenizer.

    Fields:
        model: as pure functions; its ``init`` returns the pretrained parameters.
        pretrained: what the folder holds.
        tokenizer: of the folder.
        adapters: None where the model itself is trained.
    """

    model: LanguageModel
    pretrained: PretrainedDecoder
    tokenizer: Any
    adapters: LoRA | None


def load_model(
    folder: str,
    mesh: Mesh,
    *,
    dtype: jnp.dtype,
    adapters: LoRA | None,
    remat: bool,
    fully: bool,
) -> Trained:
    """Read a Hugging Face folder.

    Args:
        folder: holds the model and its tokenizer.
        mesh: devices that the weights are divided over.
        dtype: type of the arithmetic; weights are kept in float32 at least.
        adapters: adapters that are added, drawn by the key given to ``init``; None for none.
        remat: whether blocks are computed again in the backward pass.
        fully: whether weights are divided over ``data`` too.
    """
    tokenizer = load_tokenizer(folder)
    param_dtype = jnp.promote_types(dtype, jnp.float32)
    pretrained = load_decoder(folder, param_dtype=param_dtype, mesh=mesh, fully=fully)
    model = language_model(
        pretrained.config, dtype=dtype, param_dtype=param_dtype, lora=adapters, remat=remat
    )

    def init(key: jax.Array) -> Params:
        if adapters is None:
            return pretrained.params
        # The compiler leaves out what is drawn for the weights that the folder has.
        drawn = jax.jit(lambda k: lora.split(model.init(k))[0])(key)
        return lora.combine(drawn, pretrained.params)

    return Trained(model._replace(init=init), pretrained, tokenizer, adapters)


def state_shardings(state: Any, mesh: Mesh, *, fully: bool) -> Any:
    """Return how the state of a run is divided, by the names of the parameters in it."""
    specs = partition_specs(state, mesh, fully=fully)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def save_model(folder: Path, trained: Trained, params: Params, mesh: Mesh) -> None:
    """Write a folder that transformers loads, adapters merged, with the tokenizer.

    The whole folder or none; the one that a resumed run had left, which had ended, is replaced.
    """
    if trained.adapters is not None:
        params = lora.merge(params, trained.adapters)
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(lambda leaf: jax.device_put(leaf, everywhere), params)
    if jax.process_index() == 0:
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        save_decoder(unfinished, trained.pretrained.record, jax.device_get(params))
        trained.tokenizer.save_pretrained(unfinished)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)


def check_place(out: str | None) -> None:
    """Raise ValueError where the run's folder holds a model that no run has left there."""
    if out is None or not (Path(out) / MODEL).exists():
        return
    # A run writes its results before its model.
    if not all((Path(out) / name).exists() for name in ("config.json", "results.json")):
        rule = f"it holds a folder `{MODEL}`, where the trained model would go"
        raise refuse("out", out, rule, "give another --out")
