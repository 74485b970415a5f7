"""The description of a decoder from the ``config.json`` of a Hugging Face folder.

An entry that could change the result and is not understood is refused, not skipped: a scaling of
the rotations that is unknown here, windows in some of the layers, quantized weights, code of the
folder's own. Dropout is left out: preference optimization is done without.
"""

from collections.abc import Mapping
from typing import Any

from ctrl_jax.networks.language.config import (
    DecoderConfig,
    Learned,
    LinearScaling,
    Llama3Scaling,
    Rotary,
)
from ctrl_jax.pretrained.record_entries import REQUIRED, Entries

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}

# What says nothing about the hidden states: bookkeeping, tokens, generation, dropout, other tasks.
IRRELEVANT = {
    *("model_type", "architectures", "transformers_version", "_name_or_path", "name_or_path"),
    *("dtype", "torch_dtype", "use_cache", "return_dict", "output_attentions"),
    *("output_hidden_states", "torchscript", "gradient_checkpointing", "is_decoder"),
    *("is_encoder_decoder", "chunk_size_feed_forward", "pretraining_tp", "use_bfloat16"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("unk_token_id", "id2label", "label2id", "num_labels", "problem_type", "finetuning_task"),
    *("task_specific_params", "max_position_embeddings", "n_ctx", "max_window_layers"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout"),
    *("classifier_dropout", "summary_type", "summary_use_proj", "summary_activation"),
    *("summary_proj_to_labels", "summary_first_dropout", "reorder_and_upcast_attn"),
    *("_attn_implementation_autoset", "_attn_implementation", "attn_implementation"),
}


def read_record(record: Mapping[str, Any]) -> DecoderConfig:
    """Return the description of a decoder.

    Args:
        record: the content of config.json.

    Raises:
        ValueError: another kind of model, or an entry that is missing, wrong or not understood.
    """
    entries = Entries(record)
    kind = entries.get("model_type", str)
    if kind not in READERS:
        raise entries.refuse("model_type", kind, f"it must be one of {', '.join(READERS)}")
    std = entries.get("initializer_range", float, 0.02)
    fields = READERS[kind](entries)
    entries.finish(IRRELEVANT)
    return DecoderConfig(**fields, initial_std=std)


def _gpt2(entries: Entries) -> dict[str, Any]:
    entries.expect("scale_attn_weights", True)
    entries.expect("scale_attn_by_inverse_layer_idx", False)
    entries.expect("add_cross_attention", False)
    width, heads = entries.get("n_embd", int), entries.get("n_head", int)
    return {
        "vocabulary": entries.get("vocab_size", int),
        "width": width,
        "depth": entries.get("n_layer", int),
        "heads": heads,
        "key_heads": heads,
        "head_width": _head_width(entries, width, heads),
        "hidden": entries.get("n_inner", int, 4 * width),
        "positions": Learned(entries.get("n_positions", int)),
        "norm": "layer",
        "epsilon": entries.get("layer_norm_epsilon", float, 1e-5),
        "activation": _activation(entries, "activation_function", "gelu_new"),
        "gated": False,
        "query_bias": True,
        "out_bias": True,
        "feed_forward_bias": True,
        "tied": entries.get("tie_word_embeddings", bool, True),
    }


def _gpt_neox(entries: Entries) -> dict[str, Any]:
    bias = entries.get("attention_bias", bool, True)
    heads = entries.get("num_attention_heads", int)
    return _sizes(entries, heads) | {
        "key_heads": heads,
        "positions": _rotary(entries, fraction=0.25),
        "norm": "layer",
        "epsilon": entries.get("layer_norm_eps", float, 1e-5),
        "activation": _activation(entries, "hidden_act", "gelu"),
        "gated": False,
        "parallel": entries.get("use_parallel_residual", bool, True),
        "query_bias": bias,
        "out_bias": bias,
        "feed_forward_bias": True,
    }


def _llama(entries: Entries) -> dict[str, Any]:
    heads = entries.get("num_attention_heads", int)
    bias = entries.get("attention_bias", bool, False)
    return _sizes(entries, heads) | {
        "key_heads": entries.get("num_key_value_heads", int, heads),
        "positions": _rotary(entries, fraction=1.0),
        "epsilon": entries.get("rms_norm_eps", float, 1e-6),
        "activation": _activation(entries, "hidden_act", "silu"),
        "query_bias": bias,
        "out_bias": bias,
        "feed_forward_bias": entries.get("mlp_bias", bool, False),
    }


def _mistral(entries: Entries) -> dict[str, Any]:
    window = entries.get("sliding_window", int, None)
    if "sliding_window" not in entries.record:
        raise entries.refuse("sliding_window", None, "it must be given, as int or null")
    return _llama(entries) | {"window": window}


def _qwen2(entries: Entries) -> dict[str, Any]:
    return _llama(entries) | {"query_bias": True, "window": _window(entries)}


def _qwen3(entries: Entries) -> dict[str, Any]:
    return _llama(entries) | {"query_key_norm": True, "window": _window(entries)}


READERS = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
}


def _sizes(entries: Entries, heads: int) -> dict[str, Any]:
    width = entries.get("hidden_size", int)
    return {
        "vocabulary": entries.get("vocab_size", int),
        "width": width,
        "depth": entries.get("num_hidden_layers", int),
        "heads": heads,
        "head_width": entries.get("head_dim", int, None) or _head_width(entries, width, heads),
        "hidden": entries.get("intermediate_size", int),
        "tied": entries.get("tie_word_embeddings", bool, False),
    }


def _head_width(entries: Entries, width: int, heads: int) -> int:
    if heads < 1 or width % heads:
        raise entries.refuse("heads", heads, f"they must divide the width {width}")
    return width // heads


def _activation(entries: Entries, key: str, default: str) -> str:
    name = entries.get(key, str, default)
    if name not in ACTIVATIONS:
        raise entries.refuse(key, name, f"it must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _window(entries: Entries) -> int | None:
    """The window of Qwen, which may have one in the layers from a certain one on."""
    size = entries.get("sliding_window", int, None)
    used = entries.get("use_sliding_window", bool, False) and size is not None
    depth = entries.get("num_hidden_layers", int)
    first = entries.get("max_window_layers", int, 28) if used else depth
    usual = ["sliding_attention" if i >= first else "full_attention" for i in range(depth)]
    kinds = {*entries.get("layer_types", list, usual)}
    if len(kinds) > 1 or not kinds <= {"sliding_attention", "full_attention"}:
        raise entries.refuse("layer_types", sorted(kinds), "all layers must be of one known type")
    return size if kinds == {"sliding_attention"} else None


def _rotary(entries: Entries, *, fraction: float) -> Rotary:
    """The rotation, from entries of this or of older versions of the format."""
    new, old = (entries.get(key, dict, None) for key in ("rope_parameters", "rope_scaling"))
    inner = Entries(new or old or {}, "config.json, rotation")
    base = [entries.get(key, float, None) for key in ("rope_theta", "rotary_emb_base")]
    part = [entries.get(key, float, None) for key in ("partial_rotary_factor", "rotary_pct")]
    base.append(inner.get("rope_theta", float, None))
    part.append(inner.get("partial_rotary_factor", float, None))
    scaling = _scaling(inner, entries)
    inner.finish(set())
    return Rotary(
        _one(entries, "rope_theta", base, 10_000.0),
        _one(entries, "partial_rotary_factor", part, fraction),
        scaling,
    )


def _one(entries: Entries, key: str, values: list[float | None], default: float) -> float:
    given = {value for value in values if value is not None}
    if len(given) > 1:
        raise entries.refuse(key, sorted(given), "its entries must agree")
    return given.pop() if given else default


def _scaling(inner: Entries, entries: Entries) -> LinearScaling | Llama3Scaling | None:
    old, new = inner.get("type", str, "default"), inner.get("rope_type", str, None)
    kind = new or old
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(inner.get("factor", float))
    if kind == "llama3":
        length = entries.get("max_position_embeddings", int, None)
        return Llama3Scaling(
            inner.get("factor", float),
            inner.get("low_freq_factor", float),
            inner.get("high_freq_factor", float),
            inner.get("original_max_position_embeddings", int, length or REQUIRED),
        )
    raise inner.refuse("rope_type", kind, "it must be default, linear or llama3")
