"""T5's encoder from folders of transformers: what config.json says, and the names of weights.

Its table of tokens stands in files as ``shared``, as ``encoder.embed_tokens``, or as both, the same
twice. Files of the whole model hold a decoder too, which is left out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ctrl_jax._checks import refuse
from ctrl_jax.networks.text_to_image.t5 import T5_ACTIVATIONS, T5Config
from ctrl_jax.pretrained.key_table import Source
from ctrl_jax.pretrained.language.bookkeeping import USUAL, is_bookkeeping
from ctrl_jax.pretrained.record_entries import Entries
from ctrl_jax.pretrained.torch_names import torch_table

DEEPEST = 10_000
BIAS = "relative_attention_bias"
RENAMED = ((rf"^encoder\.{BIAS}$", f"encoder.block.0.layer.0.SelfAttention.{BIAS}"),)
SHARED, TIED = "shared.weight", "encoder.embed_tokens.weight"
OF_THE_DECODER = ("decoder.", "lm_head.")
SAYS_NOTHING = USUAL | {
    *("initializer_factor", "tie_word_embeddings", "num_decoder_layers", "n_positions"),
    *("scale_decoder_outputs", "output_past"),
}


def read_t5(record: Mapping[str, Any], *, name: str = "config.json") -> T5Config:
    """Return the description of T5's encoder.

    Args:
        record: the content of config.json, of the encoder or of a whole T5.
        name: of the file, for the words of an error.

    Raises:
        ValueError: another kind of model, or an entry that is missing, wrong or not understood.
    """
    entries = Entries(record, name)
    entries.expect("model_type", "t5")
    gated, activation = _feed_forward(entries)
    buckets = entries.count("relative_attention_num_buckets", 32)
    if buckets % 4:
        raise entries.refuse(
            "relative_attention_num_buckets", buckets, "it must be a multiple of 4"
        )
    longest = entries.count("relative_attention_max_distance", 128)
    if longest <= buckets // 4:
        rule = f"it must be above {buckets // 4}, a quarter of the buckets"
        raise entries.refuse("relative_attention_max_distance", longest, rule)
    config = T5Config(
        vocabulary=entries.count("vocab_size", 32128),
        width=entries.count("d_model", 512),
        depth=entries.count("num_layers", 6, most=DEEPEST),
        heads=entries.count("num_heads", 8),
        head_width=entries.count("d_kv", 64),
        hidden=entries.count("d_ff", 2048),
        activation=activation,
        gated=gated,
        buckets=buckets,
        longest=longest,
        epsilon=entries.positive("layer_norm_epsilon", 1e-6),
    )
    entries.finish(SAYS_NOTHING, is_bookkeeping)
    return config


def _feed_forward(entries: Entries) -> tuple[bool, Any]:
    """Whether the network is gated, and its activation, by one entry unless others overrule it."""
    kind = entries.get("feed_forward_proj", str, "relu")
    gate, _, usual = kind.rpartition("-")
    usual = "gelu_new" if kind == "gated-gelu" else usual
    activation = entries.get("dense_act_fn", str, usual)
    if gate not in ("", "gated") or activation not in T5_ACTIVATIONS:
        key = "feed_forward_proj" if activation == usual else "dense_act_fn"
        rule = f"the activation must be one of {', '.join(T5_ACTIVATIONS)}, after gated- or alone"
        raise entries.refuse(key, entries.record[key], rule)
    return entries.get("is_gated_act", bool, bool(gate)), activation


def t5_table(shapes: Any) -> dict[str, Source]:
    """Return the key table of T5's encoder.

    Args:
        shapes: the tree of parameters of `t5`.
    """
    return torch_table(shapes, RENAMED)


def t5_arrays(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of a file of T5 by the names that `t5_table` gives them.

    Args:
        arrays: the file's, by name.

    Raises:
        ValueError: two tables of tokens differ.
    """
    found = {key: array for key, array in arrays.items() if not key.startswith(OF_THE_DECODER)}
    tied = found.pop(TIED, None)
    if tied is not None and not np.array_equal(found.setdefault(SHARED, tied), tied):
        rule = f"it is another table of tokens than {SHARED}"
        raise refuse(TIED, tied, rule, "take out the one that does not belong")
    return found
