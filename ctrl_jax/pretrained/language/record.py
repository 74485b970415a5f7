"""The description of a decoder from the ``config.json`` of a Hugging Face folder.

An entry means what it means to transformers for this family, or the record is refused: quantized
weights, code of the folder's own, a kind of rotation that is unknown here. What says nothing of the
network is read over (`bookkeeping`). Dropout is left out: preference optimization is done without.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ctrl_jax.networks.language.config import DecoderConfig, Learned
from ctrl_jax.pretrained.language.bookkeeping import USUAL, foreign_class, is_bookkeeping
from ctrl_jax.pretrained.language.names import FAMILIES
from ctrl_jax.pretrained.language.rotation import read_layer_rotaries, read_rotary
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
DEEPEST = 10_000
FULL, SLIDING = "full_attention", "sliding_attention"
QWEN = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}
GEMMA = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
ASSUMED: dict[str, dict[str, Any]] = {
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": QWEN,
    "qwen3": QWEN | {"head_dim": 128},
    "gemma2": GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": GEMMA,
    "phi3": {"original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
    "smollm3": {"num_key_value_heads": 4},
    "olmo2": {"rms_norm_eps": 1e-5},
}
"""What transformers takes for absent entries, by family; where it takes no sizes, none are here."""


def read_record(record: Mapping[str, Any]) -> DecoderConfig:
    """Return the description of a decoder.

    Args:
        record: the content of config.json.

    Raises:
        ValueError: another kind of model, or an entry that is missing, wrong or not understood.
    """
    return read_entries(record)[0]


def read_entries(record: Mapping[str, Any]) -> tuple[DecoderConfig, list[str]]:
    """Return the description of a decoder, and the entries of its record that were read over.

    Args:
        record: the content of config.json.

    Raises:
        ValueError: as `read_record`.
    """
    kind = Entries(record).get("model_type", str)
    if kind not in READERS:
        rule, repair = f"it must be one of {', '.join(READERS)}", "give a model of a known kind"
        raise Entries(record).refuse("model_type", kind, rule, repair)
    entries = Entries(record, assumed=ASSUMED.get(kind))
    _check_own_weights(entries, FAMILIES[kind].causal)
    std = entries.get("initializer_range", float, 0.02)
    fields = READERS[kind](entries)
    longest = entries.count("max_position_embeddings", None)
    over = entries.finish(USUAL | {"auto_map"}, is_bookkeeping)
    over += ["auto_map"] if record.get("auto_map") else []
    return DecoderConfig(**fields, longest_text=longest, initial_std=std), over


def _check_own_weights(entries: Entries, causal: str) -> None:
    quantized, own = (
        entries.record.get("quantization_config"),
        foreign_class(entries.record, causal),
    )
    if quantized is not None:
        rule, repair = "quantized weights are not read", "give the model before its quantization"
        raise entries.refuse("quantization_config", quantized, rule, repair)
    if own is not None:
        rule = "code of the folder's own is not run"
        repair = f"give a model that transformers reads as {causal}"
        raise entries.refuse("auto_map", own, rule, repair)


def _gpt2(entries: Entries) -> dict[str, Any]:
    entries.expect("scale_attn_weights", True)
    entries.expect("scale_attn_by_inverse_layer_idx", False)
    entries.expect("add_cross_attention", False)
    width, heads = entries.count("n_embd"), entries.count("n_head")
    return {
        "vocabulary": entries.count("vocab_size"),
        "width": width,
        "depth": entries.count("n_layer", most=DEEPEST),
        "heads": heads,
        "key_heads": heads,
        "head_width": _head_width(entries, width, heads),
        "hidden": entries.count("n_inner", 4 * width),
        "positions": Learned(entries.count("n_positions")),
        "norm": "layer",
        "epsilon": entries.positive("layer_norm_epsilon", 1e-5),
        "activation": _activation(entries, "activation_function", "gelu_new"),
        "gated": False,
        "query_bias": True,
        "out_bias": True,
        "feed_forward_bias": True,
        "tied": entries.get("tie_word_embeddings", bool, True),
    }


def _gpt_neox(entries: Entries) -> dict[str, Any]:
    bias = entries.get("attention_bias", bool, True)
    heads = entries.count("num_attention_heads")
    width = entries.count("hidden_size")
    return _sizes(entries) | {
        "key_heads": heads,
        "head_width": _head_width(entries, width, heads),
        "positions": read_rotary(
            entries, base_key="rotary_emb_base", fraction=0.25, fraction_key="rotary_pct"
        ),
        "norm": "layer",
        "epsilon": entries.positive("layer_norm_eps", 1e-5),
        "activation": _activation(entries, "hidden_act", "gelu"),
        "gated": False,
        "parallel": entries.get("use_parallel_residual", bool, True),
        "query_bias": bias,
        "out_bias": bias,
        "feed_forward_bias": True,
    }


def _rms(entries: Entries) -> dict[str, Any]:
    """What all families after Llama have, but rotations and biases."""
    heads, width = entries.count("num_attention_heads"), entries.count("hidden_size")
    return _sizes(entries) | {
        "key_heads": entries.count("num_key_value_heads", heads),
        "head_width": entries.count("head_dim", None) or _head_width(entries, width, heads),
        "epsilon": entries.positive("rms_norm_eps", 1e-6),
    }


def _silu(entries: Entries) -> dict[str, Any]:
    return _rms(entries) | {"activation": _activation(entries, "hidden_act", "silu")}


def _attention_bias(entries: Entries) -> dict[str, Any]:
    bias = entries.get("attention_bias", bool, False)
    return {"query_bias": bias, "out_bias": bias}


def _llama(entries: Entries) -> dict[str, Any]:
    _expect_types(entries, FULL)
    return (
        _silu(entries)
        | _attention_bias(entries)
        | {
            "positions": read_rotary(entries),
            "feed_forward_bias": entries.get("mlp_bias", bool, False),
        }
    )


def _mistral(entries: Entries) -> dict[str, Any]:
    return _silu(entries) | {"positions": read_rotary(entries)} | _window_everywhere(entries)


def _qwen2(entries: Entries) -> dict[str, Any]:
    fields = {"positions": read_rotary(entries), "query_bias": True}
    return _silu(entries) | fields | _window_of_qwen(entries)


def _qwen3(entries: Entries) -> dict[str, Any]:
    entries.count("head_dim")
    fields = {"positions": read_rotary(entries), "query_key_norm": True}
    return _silu(entries) | _attention_bias(entries) | fields | _window_of_qwen(entries)


def _gemma(entries: Entries) -> dict[str, Any]:
    """What Gemma 2 and 3 share: both count scales from one and normalize around each part."""
    entries.expect("use_bidirectional_attention", False)
    entries.count("head_dim")
    entries.count("num_key_value_heads")
    return (
        _rms(entries)
        | _attention_bias(entries)
        | {
            "norm": "rms_from_one",
            "norm_places": "around",
            "activation": _activation(entries, "hidden_activation", REQUIRED),
            "tied": entries.get("tie_word_embeddings", bool, True),
            "scaled_tokens": True,
            "score_scale": entries.positive("query_pre_attn_scalar") ** -0.5,
            "logit_cap": entries.positive("final_logit_softcapping", None),
        }
    )


def _gemma2(entries: Entries) -> dict[str, Any]:
    windows = _windows(entries, _every(entries, 2), entries.count("sliding_window", None))
    return (
        _gemma(entries)
        | windows
        | {
            "positions": read_rotary(entries),
            "score_cap": entries.positive("attn_logit_softcapping", None),
        }
    )


def _gemma3(entries: Entries) -> dict[str, Any]:
    usual = _every(entries, entries.count("sliding_window_pattern", 6))
    windows = _windows(entries, usual, entries.count("sliding_window", None))
    bases = {FULL: ("rope_theta", 1e6), SLIDING: ("rope_local_base_freq", 1e4)}
    everywhere, local = read_layer_rotaries(entries, bases=bases)
    fields = {"positions": everywhere, "query_key_norm": True}
    if windows:
        fields["window_positions"] = local
    return _gemma(entries) | fields | windows


def _phi3(entries: Entries) -> dict[str, Any]:
    kinds = {"default": "default"} | dict.fromkeys(("longrope", "su", "yarn"), "longrope")
    fields = {"positions": read_rotary(entries, fraction=1.0, kinds=kinds)}
    return _silu(entries) | fields | _window_everywhere(entries)


def _smollm3(entries: Entries) -> dict[str, Any]:
    depth = entries.count("num_hidden_layers", most=DEEPEST)
    every = entries.count("no_rope_layer_interval", 4)
    rotated = entries.get("no_rope_layers", list, None)
    if rotated is None:
        rotated = [int((i + 1) % every != 0) for i in range(depth)]
    if len(rotated) < depth or not all(value in (0, 1) for value in rotated):
        rule = f"it must say 1, rotated, or 0 for each of {depth} layers"
        raise entries.refuse("no_rope_layers", rotated, rule)
    size = _used_window(entries)
    usual = [SLIDING if size is not None and not rotates else FULL for rotates in rotated[:depth]]
    return (
        _silu(entries)
        | _attention_bias(entries)
        | _windows(entries, usual, size)
        | {
            "positions": read_rotary(entries, base=2e6),
            "unrotated": tuple(i for i in range(depth) if not rotated[i]),
            "feed_forward_bias": entries.get("mlp_bias", bool, False),
            "tied": entries.get("tie_word_embeddings", bool, True),
        }
    )


def _olmo2(entries: Entries) -> dict[str, Any]:
    _expect_types(entries, FULL)
    return (
        _silu(entries)
        | _attention_bias(entries)
        | {
            "positions": read_rotary(entries),
            "norm_places": "after",
            "query_key_norm": True,
            "joint_query_key_norm": True,
        }
    )


READERS: dict[str, Callable[[Entries], dict[str, Any]]] = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "phi3": _phi3,
    "smollm3": _smollm3,
    "olmo2": _olmo2,
}


def _sizes(entries: Entries) -> dict[str, Any]:
    return {
        "vocabulary": entries.count("vocab_size"),
        "width": entries.count("hidden_size"),
        "depth": entries.count("num_hidden_layers", most=DEEPEST),
        "heads": entries.count("num_attention_heads"),
        "hidden": entries.count("intermediate_size"),
        "tied": entries.get("tie_word_embeddings", bool, False),
    }


def _head_width(entries: Entries, width: int, heads: int) -> int:
    if heads < 1 or width % heads:
        raise entries.refuse("heads", heads, f"they must divide the width {width}")
    return width // heads


def _activation(entries: Entries, key: str, default: Any) -> str:
    name = entries.get(key, str, default)
    if name not in ACTIVATIONS:
        raise entries.refuse(key, name, f"it must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _every(entries: Entries, number: int) -> list[str]:
    """Types of layers of which every so many sees everything."""
    depth = entries.count("num_hidden_layers", most=DEEPEST)
    return [SLIDING if (i + 1) % number else FULL for i in range(depth)]


def _window_of_qwen(entries: Entries) -> dict[str, Any]:
    """The window of Qwen, which may have one in the layers from a certain one on."""
    size = _used_window(entries)
    depth, first = (
        entries.count("num_hidden_layers", most=DEEPEST),
        entries.get("max_window_layers", int),
    )
    usual = [SLIDING if size is not None and i >= first else FULL for i in range(depth)]
    return _windows(entries, usual, size)


def _used_window(entries: Entries) -> int | None:
    size = entries.count("sliding_window", None)
    return size if entries.get("use_sliding_window", bool, False) else None


def _window_everywhere(entries: Entries) -> dict[str, Any]:
    """The window of families that have the same in all layers."""
    window = entries.count("sliding_window", None)
    _expect_types(entries, FULL if window is None else SLIDING)
    return {"window": window}


def _windows(entries: Entries, usual: list[str], size: int | None) -> dict[str, Any]:
    """The windows of layers of several types; `usual` where the record does not list them."""
    types = entries.get("layer_types", list, usual)
    if len(types) != len(usual) or not {*map(str, types)} <= {FULL, SLIDING}:
        rule = f"it must say {FULL} or {SLIDING} for each of {len(usual)} layers"
        raise entries.refuse("layer_types", types, rule)
    if SLIDING not in types:
        return {}
    if size is None:
        rule = f"{SLIDING} needs a sliding_window that is used"
        raise entries.refuse("layer_types", types, rule)
    return {"window": size, "unwindowed": tuple(i for i, t in enumerate(types) if t == FULL)}


def _expect_types(entries: Entries, kind: str) -> None:
    """Refuse types of layers where transformers takes one for all."""
    types = entries.get("layer_types", list, None)
    if types is not None and {*map(str, types)} != {kind}:
        rule = f"transformers takes {kind} in all layers of this family whatever it says"
        raise entries.refuse("layer_types", types, rule, "take it out if that is right")
