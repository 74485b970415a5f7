"""Descriptions of decoders from config.json: published ones, and those that are refused."""

import dataclasses

import pytest

from ctrl_jax.networks import Learned, Rotary, YarnScaling, count_parameters, language_model
from ctrl_jax.pretrained.language.record import READERS, read_entries, read_record
from tests.pretrained.language.published import PUBLISHED
from tests.pretrained.language.records import GPT2, LLAMA, NEOX, ORIGINAL, RECORDS, SIZES


def count(config):
    """The number of parameters that a description asks for."""
    width, norm = config.width, config.width * (2 if config.norm == "layer" else 1)
    inner, outer = (n * config.head_width for n in (config.heads, config.key_heads))
    joint = inner + 2 * outer
    attention = (width + config.query_bias) * joint + (inner + config.out_bias) * width
    if config.query_key_norm:
        attention += inner + outer if config.joint_query_key_norm else 2 * config.head_width
    parts = 3 if config.gated else 2
    hidden = parts * width * config.hidden
    if config.feed_forward_bias:
        hidden += (parts - 1) * config.hidden + width
    norms = (4 if config.norm_places == "around" else 2) * norm
    tables = config.vocabulary * width * (1 if config.tied else 2) + norm
    if isinstance(config.positions, Learned):
        tables += config.positions.length * width
    return tables + config.depth * (attention + hidden + norms)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_load_or_are_refused_by_name(name):
    record, number, over, refused = PUBLISHED[name]
    if refused:
        with pytest.raises(ValueError, match=f"config.json: {refused}: received .*; .*; .*"):
            read_record(record)
        return
    config, found = read_entries(record)
    assert found == sorted(found, key=lambda entry: (entry == "auto_map", entry)) == [*over]
    assert count(config) == number


@pytest.mark.parametrize("kind", READERS)
def test_networks_have_the_parameters_of_their_description(kind):
    """Of one block: all are alike."""
    record = next(p.record for p in PUBLISHED.values() if p.record["model_type"] == kind)
    config = read_record(record)
    small = dataclasses.replace(config, depth=1, unwindowed=(), unrotated=())
    assert count_parameters(language_model(small).shapes) == count(small)


def test_the_table_is_of_many_models():
    assert sum(not published.refused for published in PUBLISHED.values()) >= 60
    assert {published.record["model_type"] for published in PUBLISHED.values()} >= {*READERS}


QWEN2, QWEN3, GEMMA3, SMOLLM3 = (RECORDS[name] for name in ("qwen2", "qwen3", "gemma3", "smollm3"))
MISTRAL, OLMO2, GEMMA2 = (RECORDS[name] for name in ("mistral", "olmo2", "gemma2"))
PHI3 = RECORDS["phi3, longrope, long"]
YARN = {"rope_type": "yarn", "factor": 4.0}
HALF = {"partial_rotary_factor": 0.5}
TYPES = {"layer_types": ["sliding_attention", "full_attention"]}
SLIDING = {"use_sliding_window": True, "sliding_window": 4}


@pytest.mark.parametrize(
    ("record", "changes", "message"),
    [
        (LLAMA, {"model_type": "bert"}, "model_type: received 'bert'; it must be one of gpt2, "),
        (LLAMA, {"hidden_size": None}, "hidden_size: received None; it must be given, as int"),
        (LLAMA, {"hidden_size": "16"}, "hidden_size: received '16'; it must be int"),
        (LLAMA, {"mlp_bias": 1}, "mlp_bias: received 1; it must be bool"),
        (LLAMA, {"num_hidden_layers": True}, "num_hidden_layers: received True; it must be int"),
        (LLAMA, {"hidden_act": "mish"}, "hidden_act: received 'mish'"),
        (LLAMA, {"quantization_config": {}}, "quantization_config: .* before its quantization"),
        (LLAMA, {"num_attention_heads": 3}, "heads: received 3; they must divide the width 16"),
        (LLAMA, {"num_key_value_heads": 3}, "key_heads: received 3; it must divide the 4 heads"),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "only False is implemented"),
        (GPT2, {"scale_attn_weights": False}, "only True is implemented"),
        (NEOX, {"auto_map": {"AutoModel": "own.Code"}}, "auto_map: received 'own.Code'; code of"),
        (LLAMA, {"auto_map": ["own.Code"]}, "auto_map: .* code of the folder's own is not run"),
        # Rotations.
        (LLAMA, {"rope_scaling": {"type": "mrope"}}, "rope_type: received 'mrope'; it must be one"),
        (LLAMA, {"rope_scaling": {"type": "linear"}}, "factor: received None"),
        (LLAMA, {"rope_scaling": {**YARN, "extrapolation": 1}}, "extrapolation: received 1"),
        (LLAMA, {"rope_scaling": {**YARN, "type": "linear"}}, "rope_type: .* it differs from type"),
        (LLAMA, {"rope_theta": 5.0, "rope_parameters": {"rope_theta": 6.0}}, "agree with 6.0"),
        (
            LLAMA,
            {"rope_scaling": YARN, "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
            "rope_scaling: .* two entries for one thing; take one of them out",
        ),
        (LLAMA, HALF, "partial_rotary_factor: received 0.5; transformers rotates whole heads"),
        (MISTRAL, HALF, "partial_rotary_factor: received 0.5"),
        (QWEN2, HALF, "partial_rotary_factor: received 0.5"),
        (QWEN3, {"rope_parameters": HALF}, "partial_rotary_factor: received 0.5"),
        (GEMMA2, HALF, "partial_rotary_factor: received 0.5"),
        (GEMMA3, HALF, "partial_rotary_factor: received 0.5"),
        (SMOLLM3, HALF, "partial_rotary_factor: received 0.5"),
        (OLMO2, HALF, "partial_rotary_factor: received 0.5"),
        (NEOX, HALF, "partial_rotary_factor: received 0.5; it must agree with 0.25"),
        (NEOX, {"rope_theta": 500.0}, "rope_theta: received 500.0; it must agree with 10000"),
        (LLAMA, {"rotary_pct": 0.5}, "rotary_pct: received 0.5; this entry is not understood"),
        (LLAMA, {"rotary_emb_base": 500}, "rotary_emb_base: received 500; this entry is not"),
        (LLAMA, {"original_max_position_embeddings": 8, "rope_scaling": YARN | ORIGINAL}, "agree"),
        (LLAMA, {"rope_scaling": {"type": "dynamic", "factor": 2, **ORIGINAL}}, "64, in its place"),
        (
            LLAMA,
            {"rope_scaling": {"type": "dynamic", "factor": 2}, "max_position_embeddings": None},
            "max_position_embeddings: received None; it must be given where rotations are dynamic",
        ),
        (PHI3, {"rope_scaling": YARN | {"rope_type": "linear"}}, "default, longrope, su, yarn"),
        (PHI3, {"rope_scaling": YARN}, "short_factor: received None"),
        (PHI3, {"partial_rotary_factor": 1.0}, "scaling.short: .* one factor for each of 4"),
        (
            GEMMA3,
            {"rope_scaling": None, "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
            "factor: received 2.0; this entry is not understood",
        ),
        # What transformers ignores in a family.
        (MISTRAL, {"attention_bias": True}, "attention_bias: received True; this entry is not"),
        (QWEN2, {"attention_bias": True}, "attention_bias: received True"),
        (QWEN3, {"mlp_bias": True}, "mlp_bias: received True"),
        (PHI3, {"attention_bias": True}, "attention_bias: received True"),
        (LLAMA, {"sliding_window": 4}, "sliding_window: received 4"),
        (GEMMA3, {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping: received 50.0"),
        (LLAMA, TYPES, "layer_types: .* transformers takes full_attention in all layers"),
        (MISTRAL, TYPES, "layer_types: .* transformers takes sliding_attention in all layers"),
        # Windows.
        (QWEN2, {**SLIDING, **TYPES, "use_sliding_window": False}, "needs a sliding_window that"),
        (QWEN2, {**SLIDING, "layer_types": ["full_attention"]}, "for each of 2 layers"),
        (QWEN2, {"layer_types": ["chunked_attention"] * 2}, "it must say full_attention or slid"),
        (SMOLLM3, {**TYPES, "use_sliding_window": False}, "layer_types: .* needs a sliding_window"),
        (SMOLLM3, {"no_rope_layers": [1]}, "it must say 1, rotated, or 0 for each of 2 layers"),
        (GEMMA2, {"use_bidirectional_attention": True}, "only False is implemented"),
        (LLAMA, {"is_causal": False}, "is_causal: received False; this entry is not understood"),
        (LLAMA, {"use_mrope": True}, "use_mrope: received True; .* take it out if it says nothing"),
        (LLAMA, {"pruned_heads": {"0": [1]}}, "pruned_heads: received"),
    ],
)
def test_records_that_are_not_understood_are_refused(record, changes, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_record({**record, **changes})
    assert "\n" not in str(raised.value) and str(raised.value).count("; ") >= 2


def test_odd_values_are_refused_in_one_line_or_read():
    """Every entry of every record, in the rotations too, with values that nobody should write."""
    odd = (0, -1, 10**23, float("nan"), "x", [[]], {"a": 1}, True)
    others = ("layer_types", "no_rope_layers", "no_rope_layer_interval", "sliding_window_pattern")
    others += ("auto_map", "max_window_layers", "original_max_position_embeddings", "head_dim")
    refusals = 0
    for record in RECORDS.values():
        changed = [{**record, key: value} for key in (*record, *others) for value in odd]
        for name, inner in record.items():
            if isinstance(inner, dict):
                changed += [{**record, name: {**inner, k: v}} for k in inner for v in odd]
        for each in changed:
            try:
                read_record(each)
            except ValueError as error:
                refusals += 1
                assert str(error).count("; ") >= 2 and "\n" not in str(error), error
    assert refusals > 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"n_special": 0, "predict_special_tokens": True, "output_past": True, "_num_labels": 1},
        {"attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0, "layerdrop": 0.0},
        {"do_sample": True, "max_length": 20, "temperature": 0.7, "top_p": 0.9, "top_k": 50},
        {"use_mrope": False, "pruned_heads": {}, "lm_head_bias": False, "norm_type": ""},
        {"unsloth_version": "2025.1", "_commit_hash": "a1b2", "boi_token_index": 3},
        {"tokenizer_class": "LlamaTokenizer", "transformers.js_config": {"dtype": "fp16"}},
    ],
)
@pytest.mark.parametrize("record", [GPT2, NEOX, LLAMA, GEMMA3], ids=lambda r: r["model_type"])
def test_what_changes_nothing_is_read_over_and_named(record, changes):
    config, over = read_entries({**record, **changes})
    assert config == read_record(record) and over == sorted(changes)


def test_what_changes_nothing_of_rotations_is_read():
    plain = read_record(LLAMA)
    for changes in (
        {"partial_rotary_factor": 1.0},
        {"rope_scaling": {"rope_type": "default"}, "rope_parameters": {"rope_type": "default"}},
        {"rope_scaling": {}, "rope_parameters": {"rope_theta": 10000.0}},
        {"rope_theta": 10000, "original_max_position_embeddings": 5},
    ):
        assert read_record({**LLAMA, **changes}) == plain
    yarn = {"rope_scaling": {**YARN, **ORIGINAL, "finetuned": True}}
    for changes in (yarn, {"rope_parameters": YARN, **ORIGINAL}):
        found = read_record({**LLAMA, **changes}).positions
        assert found == Rotary(scaling=YarnScaling(4.0, 16))
    found = read_record({**LLAMA, "rope_scaling": YARN}).positions
    assert found == Rotary(scaling=YarnScaling(4.0, 64))


def test_absent_entries_are_those_of_transformers():
    absent = {key: value for key, value in MISTRAL.items() if key != "sliding_window"}
    assert read_record(absent).window == 4096
    assert read_record(absent | {"sliding_window": None}).window is None
    absent = {key: value for key, value in QWEN3.items() if key != "head_dim"}
    assert read_record(absent).head_width == 128
    gemma = {key: GEMMA2[key] for key in (*SIZES, "model_type")}
    config = read_record(gemma)
    assert (config.score_cap, config.logit_cap, config.window) == (50.0, 30.0, 4096)
    assert (config.score_scale, config.head_width, config.key_heads) == (1 / 16, 256, 4)
    assert config.tied and config.longest_text == 64


def test_windows_of_qwen():
    """From max_window_layers on, where they are used at all."""
    size = {"sliding_window": 4, "max_window_layers": 0}
    assert read_record({**QWEN2, **size}).window is None
    assert read_record({**QWEN2, **size, "use_sliding_window": True}).windows == (4, 4)
    full = {"use_sliding_window": True, "layer_types": ["full_attention"] * 2}
    assert read_record({**QWEN2, **size, **full}).window is None
    mixed = {**size, "use_sliding_window": True, "max_window_layers": 1}
    assert read_record({**QWEN2, **mixed}).windows == (None, 4)
    assert read_record({**QWEN2, **mixed, **TYPES}).windows == (4, None)
