"""Small decoders of every kind of part, with parameters away from their start."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax.networks.language.config import DecoderConfig, Learned
from ctrl_jax.networks.layers.rotary import Rotary
from ctrl_jax.networks.layers.rotary_scaling import Llama3Scaling, YarnScaling

SIZES: dict[str, Any] = {
    "vocabulary": 23,
    "width": 16,
    "depth": 2,
    "heads": 4,
    "head_width": 4,
    "hidden": 20,
}
GPT2 = DecoderConfig(
    **SIZES,
    key_heads=4,
    positions=Learned(12),
    norm="layer",
    activation="gelu_tanh",
    gated=False,
    query_bias=True,
    out_bias=True,
    feed_forward_bias=True,
    tied=True,
)
NEOX = DecoderConfig(
    **SIZES,
    key_heads=4,
    positions=Rotary(base=50.0, fraction=0.5),
    norm="layer",
    activation="gelu",
    gated=False,
    parallel=True,
    feed_forward_bias=True,
)
QWEN = DecoderConfig(
    **SIZES,
    key_heads=2,
    positions=Rotary(base=20.0, scaling=Llama3Scaling(4.0, 1.0, 4.0, 16)),
    query_key_norm=True,
    window=5,
)
# Gemma 2 and 3 in one: a window in the first block alone, with a rotation of its own.
GEMMA = DecoderConfig(
    **SIZES,
    key_heads=2,
    positions=Rotary(base=200.0, scaling=YarnScaling(4.0, 6)),
    norm="rms_from_one",
    norm_places="around",
    activation="gelu_tanh",
    query_key_norm=True,
    tied=True,
    scaled_tokens=True,
    score_scale=0.7,
    score_cap=2.0,
    logit_cap=3.0,
    window=5,
    unwindowed=(1,),
    window_positions=Rotary(base=20.0),
)
# OLMo 2 and SmolLM3 in one: normalized results, no rotation in the last block.
OLMO = DecoderConfig(
    **SIZES,
    key_heads=2,
    positions=Rotary(base=20.0, fraction=0.5),
    norm_places="after",
    query_key_norm=True,
    joint_query_key_norm=True,
    unrotated=(1,),
)
CONFIGS = {"gpt2": GPT2, "neox": NEOX, "qwen": QWEN, "gemma": GEMMA, "olmo": OLMO}


def moved(model):
    """Random parameters of a model, scales around one; drawn by NumPy, without a compilation."""
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        noise = 0.3 * generator.standard_normal(leaf.shape)
        center = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(center + noise, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, model.shapes)
