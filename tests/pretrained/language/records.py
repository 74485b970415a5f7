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
ORIGINAL = {"original_max_position_embeddings": 16}
GEMMA = LLAMA | {"head_dim": 6, "query_pre_attn_scalar": 3, "sliding_window": 4}
LONG = {
    **LLAMA,
    "model_type": "phi3",
    "pad_token_id": 0,
    "hidden_size": 32,
    "partial_rotary_factor": 0.75,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0, 1.1, 1.3],
        "long_factor": [1.2, 2.0, 5.0],
    },
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
    "qwen2, window in later blocks": {
        **LLAMA,
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 3,
        "max_window_layers": 1,
        "rope_scaling": {"type": "dynamic", "factor": 3.0},
        "max_position_embeddings": 6,
    },
    "qwen3": {**LLAMA, "model_type": "qwen3", "head_dim": 8},
    "qwen3, yarn": {
        **LLAMA,
        "model_type": "qwen3",
        "head_dim": 8,
        "rope_scaling": {"rope_type": "yarn", "rope_theta": 50.0, "factor": 4.0} | ORIGINAL,
    },
    "llama, yarn in full": {
        **LLAMA,
        "head_dim": 16,
        "rope_parameters": {
            **{"rope_type": "yarn", "rope_theta": 500.0, "factor": 8.0, "truncate": False},
            **{"beta_fast": 4, "beta_slow": 0.5, "mscale": 0.7, "mscale_all_dim": 0.3, **ORIGINAL},
        },
    },
    "neox, dynamic": {
        **NEOX,
        "max_position_embeddings": 7,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 90.0},
        "rotary_pct": 0.5,
    },
    "gemma2": {**GEMMA, "model_type": "gemma2"},
    "gemma2, other sizes": {
        **GEMMA,
        "model_type": "gemma2",
        "attention_bias": True,
        "tie_word_embeddings": False,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": 2.0,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "gemma3": {
        **GEMMA,
        "model_type": "gemma3_text",
        "sliding_window_pattern": 2,
        "rope_theta": 300.0,
        "rope_local_base_freq": 20.0,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
    "gemma3, newer format": {
        **GEMMA,
        "model_type": "gemma3_text",
        "layer_types": ["full_attention", "sliding_attention"],
        "final_logit_softcapping": 4.0,
        "rope_parameters": {
            "full_attention": {"rope_type": "yarn", "rope_theta": 400.0, "factor": 4.0, **ORIGINAL},
            "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
        },
    },
    "phi3, window": {**LLAMA, "model_type": "phi3", "pad_token_id": 0, "sliding_window": 4},
    "phi3, longrope, short": LONG | {"original_max_position_embeddings": 11},
    "phi3, longrope, long": LONG | {"original_max_position_embeddings": 10},
    "smollm3": {
        **LLAMA,
        "model_type": "smollm3",
        "pad_token_id": 0,
        "no_rope_layers": [1, 0],
        "use_sliding_window": True,
        "sliding_window": 3,
    },
    "olmo2": {**LLAMA, "model_type": "olmo2", "attention_bias": True, "rope_theta": 70.0},
}
