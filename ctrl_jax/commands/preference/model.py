"""The model that is trained: read from a folder, with or without adapters."""

import collections
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from ctrl_jax._checks import under_names
from ctrl_jax._typing import Params
from ctrl_jax.data import load_tokenizer
from ctrl_jax.networks import LanguageModel, LoRA, language_model, lora, partition_specs
from ctrl_jax.pretrained import PretrainedDecoder, load_decoder
from ctrl_jax.pretrained.weight_files import read_weights

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".index.json")
WEIGHTS += (".gguf", ".onnx", ".h5", ".msgpack")
"""How the names of files with weights end."""

_WORDS = ("tokenizer", "vocab", "merges", "special_tokens_map", "added_tokens", "chat_template")
_WORDS += ("additional_chat_templates/", "spiece", "sentencepiece", "tekken")


def is_of_model(name: str) -> bool:
    """Return whether a file of a model's folder says what the model computes."""
    return name == "config.json" or ("/" not in name and name.endswith(WEIGHTS))


def is_of_tokenizer(name: str) -> bool:
    """Return whether a file of a model's folder says how texts become tokens."""
    return name.startswith(_WORDS) or name.endswith((".tiktoken", ".jinja", ".model"))


class Trained(NamedTuple):
    """A model with its tokenizer.

    Fields:
        model: as pure functions; its ``init`` returns the pretrained parameters.
        pretrained: what the folder holds.
        tokenizer: of the folder.
        adapters: None where the model itself is trained.
        folder: where it was read from.
        stored: the type that most of its weights have there.
    """

    model: LanguageModel
    pretrained: PretrainedDecoder
    tokenizer: Any
    adapters: LoRA | None
    folder: Path
    stored: str


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
    with under_names(folder="model"):
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

    made = model._replace(init=init)
    return Trained(made, pretrained, tokenizer, adapters, Path(folder), _stored(folder))


def _stored(folder: str) -> str:
    sizes: collections.Counter[str] = collections.Counter()
    for array in read_weights(folder).values():
        sizes[str(array.dtype)] += array.size
    return sizes.most_common(1)[0][0]


def state_shardings(state: Any, mesh: Mesh, *, fully: bool) -> Any:
    """Return how the state of a run is divided, by the names of the parameters in it."""
    specs = partition_specs(state, mesh, fully=fully)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
