"""Descriptions of decoders from config.json: published ones, and those that are refused."""

import dataclasses

import pytest

from ctrl_jax.networks import count_parameters, language_model
from ctrl_jax.pretrained.language.record import read_record
from tests.pretrained.language.records import GPT2, LLAMA, NEOX, RECORDS

# The entries of published models that their shapes depend on, and others that they came with.
PUBLISHED = {
    "GPT-2": (
        {
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "n_ctx": 1024,
            "n_embd": 768,
            "n_head": 12,
            "n_layer": 12,
            "n_positions": 1024,
            "resid_pdrop": 0.1,
            "summary_type": "cls_index",
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
            "vocab_size": 50257,
        },
        124_439_808,
    ),
    "Pythia 70M": (
        {
            "model_type": "gpt_neox",
            "hidden_act": "gelu",
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_attention_heads": 8,
            "num_hidden_layers": 6,
            "rotary_emb_base": 10000,
            "rotary_pct": 0.25,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "use_parallel_residual": True,
            "vocab_size": 50304,
        },
        70_426_624,
    ),
    "Qwen 2.5 0.5B": (
        {
            "model_type": "qwen2",
            "hidden_size": 896,
            "intermediate_size": 4864,
            "max_window_layers": 21,
            "num_attention_heads": 14,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2,
            "rope_theta": 1000000.0,
            "sliding_window": 32768,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        494_032_768,
    ),
    "Qwen 3 0.6B": (
        {
            "model_type": "qwen3",
            "attention_bias": False,
            "head_dim": 128,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "num_key_value_heads": 8,
            "quantization_config": None,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        596_049_920,
    ),
    "Llama 3.2 1B": (
        {
            "model_type": "llama",
            "attention_bias": False,
            "head_dim": 64,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "num_attention_heads": 32,
            "num_hidden_layers": 16,
            "num_key_value_heads": 8,
            "pretraining_tp": 1,
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
            "vocab_size": 128256,
        },
        1_235_814_400,
    ),
    "Mistral 7B": (
        {
            "model_type": "mistral",
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
            "vocab_size": 32000,
        },
        7_241_732_096,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_number_of_parameters(name):
    """From models of one and two blocks: all blocks are alike."""
    record, number = PUBLISHED[name]
    config = read_record(record)
    one, two = (
        count_parameters(language_model(dataclasses.replace(config, depth=depth)).shapes)
        for depth in (1, 2)
    )
    assert one + (config.depth - 1) * (two - one) == number


QWEN2 = RECORDS["qwen2"]
LONG = {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    ("record", "changes", "message"),
    [
        (LLAMA, {"model_type": "bert"}, "model_type: received 'bert'; it must be one of gpt2, "),
        (LLAMA, {"hidden_size": None}, "hidden_size: received None; it must be given, as int"),
        (LLAMA, {"hidden_size": "16"}, "hidden_size: received '16'; it must be int"),
        (LLAMA, {"mlp_bias": 1}, "mlp_bias: received 1; it must be bool"),
        (LLAMA, {"num_hidden_layers": True}, "num_hidden_layers: received True; it must be int"),
        (LLAMA, {"rope_scaling": LONG}, "rope_type: received 'yarn'; it must be default, linear"),
        (LLAMA, {"rope_scaling": {**LONG, "rope_type": "linear", "mscale": 1}}, "mscale: received"),
        (LLAMA, {"rope_theta": 5.0, "rope_parameters": {"rope_theta": 6.0}}, "must agree"),
        (LLAMA, {"rope_scaling": {"type": "linear"}}, "factor: received None"),
        (LLAMA, {"hidden_act": "mish"}, "hidden_act: received 'mish'"),
        (LLAMA, {"quantization_config": {}}, "quantization_config: .* not understood here"),
        (LLAMA, {"num_attention_heads": 3}, "heads: received 3; they must divide the width 16"),
        (LLAMA, {"num_key_value_heads": 3}, "key_heads: received 3; it must divide the 4 heads"),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "only False is implemented"),
        (GPT2, {"scale_attn_weights": False}, "only True is implemented"),
        (NEOX, {"auto_map": {"AutoModel": "own.Code"}}, "auto_map: .* not understood here"),
        (QWEN2, {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "all l"),
        ({**LLAMA, "model_type": "mistral"}, {}, "sliding_window: received None; it must be given"),
    ],
)
def test_records_that_are_not_understood_are_refused(record, changes, message):
    with pytest.raises(ValueError, match=message):
        read_record({**record, **changes})


def test_windows_of_qwen():
    """From max_window_layers on, where they are used at all."""
    size = {"sliding_window": 4, "max_window_layers": 0}
    assert read_record({**QWEN2, **size}).window is None
    assert read_record({**QWEN2, **size, "use_sliding_window": True}).window == 4
    full = {"use_sliding_window": True, "layer_types": ["full_attention"] * 2}
    assert read_record({**QWEN2, **size, **full}).window is None
