"""Descriptions of small decoders, one for every feature, as config.json has them."""

GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 37,
    "n_positions": 16,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 3,
}
SIZES = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
NEOX = {"model_type": "gpt_neox", **SIZES, "hidden_size": 32}
LLAMA = {"model_type": "llama", **SIZES, "num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

RECORDS = {
    "gpt2": GPT2,
    "gpt2, own head, inner size": {**GPT2, "tie_word_embeddings": False, "n_inner": 20},
    "neox": {**NEOX, "rope_parameters": {"rope_theta": 50.0, "partial_rotary_factor": 0.5}},
    "neox, sequential, older format": {
        **NEOX,
        "use_parallel_residual": False,
        "rotary_pct": 0.25,
        "rotary_emb_base": 200,
        "attention_bias": False,
    },
    "llama": LLAMA,
    "llama 3, tied": {**LLAMA, "tie_word_embeddings": True, "rope_parameters": LLAMA3},
    "llama, biases, linear scaling": {
        **LLAMA,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_theta": 500.0,
        "rope_scaling": {"type": "linear", "factor": 2.0},
    },
    "mistral": {
        **LLAMA,
        "model_type": "mistral",
        "head_dim": 6,
        "sliding_window": 3,
        "num_key_value_heads": 1,
    },
    "qwen2": {**LLAMA, "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {**LLAMA, "model_type": "qwen3", "head_dim": 8},
}
