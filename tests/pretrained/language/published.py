"""The records of published models: the entries of their config.json, written from public values.

One record for each family, and what a model has otherwise. With a model goes its number of
parameters, and what is read over and said, or the entry that it is refused for.
"""

from typing import Any, NamedTuple

Record = dict[str, Any]


class Published(NamedTuple):
    """A record, and what becomes of it."""

    record: Record
    parameters: int | None = None
    over: tuple[str, ...] = ()
    refused: str = ""


def sizes(width, hidden, depth, heads, key_heads, vocabulary, **others) -> Record:
    shared = {} if key_heads is None else {"num_key_value_heads": key_heads}
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "vocab_size": vocabulary,
        **shared,
        **others,
    }


def model(family: Record, parameters: int | None, *over: str, **others) -> Published:
    return Published(family | others, parameters, over)


def refused(family: Record, entry: str, **others) -> Published:
    return Published(family | others, refused=entry)


USUAL = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0",
    "use_cache": True,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
GPT2 = USUAL | {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "resid_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}
GPT2_MEDIUM = GPT2 | {"n_embd": 1024, "n_head": 16, "n_layer": 24}
GPT2_OLD = ("n_special", "predict_special_tokens")
NEOX = USUAL | {
    "model_type": "gpt_neox",
    "architectures": ["GPTNeoXForCausalLM"],
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 2048,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
}
LLAMA = USUAL | {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}
LLAMA2 = LLAMA | sizes(4096, 11008, 32, 32, 32, 32000)
ROPE3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LLAMA31 = LLAMA | sizes(4096, 14336, 32, 32, 8, 128256)
LLAMA31 |= {"attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False}
LLAMA31 |= {"max_position_embeddings": 131072, "rope_theta": 500000.0, "rope_scaling": ROPE3}
LLAMA32 = LLAMA31 | {"rope_scaling": ROPE3 | {"factor": 32.0}, "tie_word_embeddings": True}
SMOLLM = LLAMA | {"rope_theta": 100000, "tie_word_embeddings": True, "rope_interleaved": False}
SMOLLM_OVER = ("is_llama_config", "rope_interleaved")
MISTRAL = USUAL | {
    "model_type": "mistral",
    "architectures": ["MistralForCausalLM"],
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    **sizes(4096, 14336, 32, 32, 8, 32000),
}
MISTRAL_LATER = MISTRAL | {"rope_theta": 1000000.0, "sliding_window": None}
QWEN2 = USUAL | {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}


def qwen2(*numbers, last=28, **others) -> Record:
    window = {"max_window_layers": last, "sliding_window": 131072}
    return QWEN2 | sizes(*numbers) | window | others


QWEN25_7B = qwen2(3584, 18944, 28, 28, 4, 152064)
QWEN3 = USUAL | {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}
GEMMA2 = USUAL | {
    "model_type": "gemma2",
    "architectures": ["Gemma2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
}
GEMMA2_OVER = ("cache_implementation", "hidden_act")
GEMMA3 = USUAL | {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 32768,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
}
PHI3_CODE = {
    "AutoConfig": "configuration_phi3.Phi3Config",
    "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
}
PHI3 = USUAL | {
    "model_type": "phi3",
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": PHI3_CODE,
    "embd_pdrop": 0.0,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
}


def longrope(rotations, kind="longrope") -> Record:
    short, long = ([1.0 + step * i for i in range(rotations)] for step in (0.04, 1.2))
    return {"type": kind, "short_factor": short, "long_factor": long}


PHI3_LONG = PHI3 | {"max_position_embeddings": 131072, "sliding_window": 262144}
PHI3_MINI = sizes(3072, 8192, 32, 32, 32, 32064)
PHI4_MINI = PHI3_LONG | sizes(3072, 8192, 32, 24, 8, 200064)
PHI4_MINI |= {"partial_rotary_factor": 0.75, "rope_scaling": longrope(48)}
PHI4_MINI |= {"tie_word_embeddings": True, "interpolate_factor": 1, "full_attn_mod": 1}
PHI4_MINI |= {"lm_head_bias": False, "mlp_bias": False}
PHI_OVER = ("attention_bias", "auto_map")
SMOLLM3 = USUAL | {
    "model_type": "smollm3",
    "architectures": ["SmolLM3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "layer_types": ["full_attention"] * 36,
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "pretraining_tp": 2,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    **sizes(2048, 11008, 36, 16, 4, 128256),
}
OLMO2 = USUAL | {
    "model_type": "olmo2",
    "architectures": ["Olmo2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
}
QUANTIZED = {"bits": 4, "group_size": 128, "quant_method": "gptq"}
DISTILLED = {"use_mrope": False, "sliding_window": 4096}

PUBLISHED: dict[str, Published] = {
    "gpt2": model(GPT2, 124_439_808),
    "gpt2-medium": model(
        GPT2_MEDIUM, 354_823_168, *GPT2_OLD, n_special=0, predict_special_tokens=True
    ),
    "gpt2-large": model(GPT2 | {"n_embd": 1280, "n_head": 20, "n_layer": 36}, 774_030_080),
    "gpt2-xl": model(
        GPT2 | {"n_embd": 1600, "n_head": 25, "n_layer": 48},
        1_557_611_200,
        "output_past",
        output_past=True,
    ),
    "distilgpt2": model(
        GPT2 | {"n_layer": 6}, 81_912_576, "_num_labels", _num_labels=1, id2label={"0": "LABEL_0"}
    ),
    "DialoGPT-medium": model(GPT2_MEDIUM, 354_823_168),
    "Cerebras-GPT 111M": model(
        GPT2 | {"n_layer": 10, "n_inner": 3072, "n_positions": 2048, "activation_function": "gelu"},
        111_050_496,
        scale_attn_weights=True,
    ),
    "alias-gpt2-small-x21": refused(
        GPT2, "scale_attn_by_inverse_layer_idx", scale_attn_by_inverse_layer_idx=True
    ),
    "pythia-70m": model(NEOX | sizes(512, 2048, 6, 8, None, 50304), 70_426_624),
    "pythia-160m": model(NEOX | sizes(768, 3072, 12, 12, None, 50304), 162_322_944),
    "pythia-410m": model(NEOX | sizes(1024, 4096, 24, 16, None, 50304), 405_334_016),
    "pythia-1b": model(NEOX | sizes(2048, 8192, 16, 8, None, 50304), 1_011_781_632),
    "pythia-1.4b": model(NEOX | sizes(2048, 8192, 24, 16, None, 50304), 1_414_647_808),
    "pythia-2.8b": model(NEOX | sizes(2560, 10240, 32, 32, None, 50304), 2_775_208_960),
    "pythia-6.9b": model(NEOX | sizes(4096, 16384, 32, 32, None, 50432), 6_857_302_016),
    "pythia-12b": model(NEOX | sizes(5120, 20480, 36, 40, None, 50688), 11_846_072_320),
    "gpt-neox-20b": model(
        NEOX | sizes(6144, 24576, 44, 64, None, 50432) | {"hidden_act": "gelu_fast"},
        20_554_567_680,
        "attention_probs_dropout_prob",
        "hidden_dropout_prob",
        attention_probs_dropout_prob=0,
        hidden_dropout_prob=0,
    ),
    "dolly-v2-3b": model(
        NEOX | sizes(2560, 10240, 32, 32, None, 50280),
        2_775_086_080,
        "custom_pipelines",
        custom_pipelines={"text-generation": {"impl": "instruct_pipeline.Pipeline"}},
    ),
    "RedPajama-INCITE 3B": model(
        NEOX | sizes(2560, 10240, 32, 32, None, 50432),
        2_775_864_320,
        rotary_pct=1.0,
        use_parallel_residual=False,
    ),
    "Llama 2 7B": model(LLAMA2, 6_738_415_616),
    "Llama 2 13B chat": model(
        LLAMA2 | sizes(5120, 13824, 40, 40, 40, 32000),
        13_015_864_320,
        "max_length",
        max_length=4096,
    ),
    "Llama 2 70B": model(LLAMA2 | sizes(8192, 28672, 80, 64, 8, 32000), 68_976_648_192),
    "Vicuna 7B 16k": model(
        LLAMA2,
        6_738_415_616,
        "max_sequence_length",
        max_sequence_length=16384,
        rope_scaling={"factor": 4.0, "type": "linear"},
    ),
    "CodeLlama 7B": model(LLAMA2 | {"vocab_size": 32016, "rope_theta": 1000000}, 6_738_546_688),
    "TinyLlama 1.1B": model(LLAMA | sizes(2048, 5632, 22, 32, 4, 32000), 1_100_048_384),
    "Yarn-Llama-2-7b-64k": model(
        LLAMA2,
        6_738_415_616,
        "auto_map",
        auto_map={"AutoModelForCausalLM": "modeling_llama_together_yarn.LlamaForCausalLM"},
        rope_scaling=YARN
        | {"factor": 16.0, "original_max_position_embeddings": 4096}
        | {"finetuned": True},
    ),
    "Llama 3 8B": model(
        LLAMA31 | {"rope_scaling": None, "max_position_embeddings": 8192}, 8_030_261_248
    ),
    "Llama 3.1 8B Instruct": model(LLAMA31, 8_030_261_248, eos_token_id=[128001, 128008, 128009]),
    "Llama 3.1 70B": model(LLAMA31 | sizes(8192, 28672, 80, 64, 8, 128256), 70_553_706_496),
    "Llama 3.2 1B": model(
        LLAMA32 | sizes(2048, 8192, 16, 32, 8, 128256, head_dim=64), 1_235_814_400
    ),
    "Llama 3.2 3B": model(
        LLAMA32 | sizes(3072, 8192, 28, 24, 8, 128256, head_dim=128), 3_212_749_824
    ),
    "Llama 3.2 1B, Unsloth's": model(
        LLAMA32 | sizes(2048, 8192, 16, 32, 8, 128256, head_dim=64),
        1_235_814_400,
        "unsloth_fixed",
        unsloth_fixed=True,
    ),
    "R1-Distill-Llama-8B": model(LLAMA31, 8_030_261_248),
    "Llama 3.1 Tulu 3 8B": model(LLAMA31 | {"vocab_size": 128264}, 8_030_326_784),
    "SmolLM2 135M": model(
        SMOLLM | sizes(576, 1536, 30, 9, 3, 49152), 134_515_008, *SMOLLM_OVER, is_llama_config=True
    ),
    "SmolLM2 360M": model(
        SMOLLM | sizes(960, 2560, 32, 15, 5, 49152),
        361_821_120,
        *SMOLLM_OVER,
        is_llama_config=True,
    ),
    "SmolLM2 1.7B": model(
        SMOLLM | sizes(2048, 8192, 24, 32, 32, 49152), 1_711_376_384, "rope_interleaved"
    ),
    "deepseek-coder 6.7B": model(
        LLAMA2 | {"vocab_size": 32256, "max_position_embeddings": 16384, "rope_theta": 100000},
        6_740_512_768,
        rope_scaling={"factor": 4.0, "type": "linear"},
    ),
    "Yi 6B": model(LLAMA | sizes(4096, 11008, 32, 32, 4, 64000), 6_061_035_520, rope_theta=5e6),
    "Llama 2 7B, quantized": refused(LLAMA2, "quantization_config", quantization_config=QUANTIZED),
    "Llama of another code": refused(
        LLAMA2, "auto_map", auto_map={"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    ),
    "Mistral 7B v0.1": model(MISTRAL, 7_241_732_096),
    "Mistral 7B Instruct v0.2": model(MISTRAL_LATER, 7_241_732_096),
    "Mistral 7B v0.3": model(MISTRAL_LATER | {"vocab_size": 32768}, 7_248_023_552),
    "Mistral Nemo 12B": model(
        MISTRAL_LATER | sizes(5120, 14336, 40, 32, 8, 131072, head_dim=128), 12_247_782_400
    ),
    "Mistral Small 24B": model(
        MISTRAL_LATER | sizes(5120, 32768, 40, 32, 8, 131072, head_dim=128), 23_572_403_200
    ),
    "Zephyr 7B": model(MISTRAL, 7_241_732_096, pad_token_id=2),
    "Yarn-Mistral-7b-128k": model(
        MISTRAL | {"sliding_window": 131072},
        7_241_732_096,
        "auto_map",
        auto_map={
            "AutoConfig": "configuration_mistral.MistralConfig",
            "AutoModelForCausalLM": "modeling_mistral_yarn.MistralForCausalLM",
        },
        rope_scaling=YARN
        | {"factor": 16.0, "original_max_position_embeddings": 8192}
        | {"finetuned": True},
    ),
    "OpenHermes 2.5": model(MISTRAL | {"vocab_size": 32002}, 7_241_748_480),
    "Mixtral 8x7B": refused(MISTRAL, "model_type", model_type="mixtral", num_local_experts=8),
    "Qwen2 0.5B": model(
        qwen2(896, 4864, 24, 14, 2, 151936, last=24, tie_word_embeddings=True), 494_032_768
    ),
    "Qwen2 7B Instruct": model(QWEN25_7B, 7_615_616_512),
    "Qwen2.5 0.5B": model(
        qwen2(896, 4864, 24, 14, 2, 151936, last=24, tie_word_embeddings=True),
        494_032_768,
        "use_mrope",
        use_mrope=False,
    ),
    "Qwen2.5 1.5B": model(
        qwen2(1536, 8960, 28, 12, 2, 151936, tie_word_embeddings=True),
        1_543_714_304,
        "use_mrope",
        use_mrope=False,
    ),
    "Qwen2.5 3B": model(
        qwen2(2048, 11008, 36, 16, 2, 151936, last=36, tie_word_embeddings=True),
        3_085_938_688,
        "use_mrope",
        use_mrope=False,
    ),
    "Qwen2.5 7B Instruct, 128k": model(QWEN25_7B, 7_615_616_512, rope_scaling=YARN),
    "Qwen2.5 14B": model(
        qwen2(5120, 13824, 48, 40, 8, 152064, last=48), 14_770_033_664, "use_mrope", use_mrope=False
    ),
    "Qwen2.5 32B": model(qwen2(5120, 27648, 64, 40, 8, 152064, last=64), 32_763_876_352),
    "Qwen2.5 72B": model(qwen2(8192, 29568, 80, 64, 8, 152064, last=80), 72_706_203_648),
    "Qwen2.5-Math 1.5B": model(
        qwen2(1536, 8960, 28, 12, 2, 151936, last=21, tie_word_embeddings=True),
        1_543_714_304,
        "use_mrope",
        use_mrope=False,
        rope_theta=10000,
        max_position_embeddings=4096,
    ),
    "Qwen2.5 7B Instruct 1M": model(
        QWEN25_7B,
        7_615_616_512,
        "dual_chunk_attention_config",
        dual_chunk_attention_config={"chunk_size": 262144, "local_size": 8192},
        max_position_embeddings=1010000,
    ),
    "R1-Distill-Qwen-1.5B": model(
        qwen2(1536, 8960, 28, 12, 2, 151936, last=21, rope_theta=10000),
        1_777_088_000,
        "use_mrope",
        **DISTILLED,
    ),
    "R1-Distill-Qwen-7B": model(
        QWEN25_7B | {"rope_theta": 10000}, 7_615_616_512, "use_mrope", **DISTILLED
    ),
    "Qwen2 with image positions": refused(QWEN25_7B, "use_mrope", use_mrope=True),
    "gte-Qwen2 7B": refused(QWEN25_7B, "is_causal", is_causal=False),
    "Qwen3 0.6B": model(
        QWEN3 | sizes(1024, 3072, 28, 16, 8, 151936, tie_word_embeddings=True), 596_049_920
    ),
    "Qwen3 1.7B": model(
        QWEN3 | sizes(2048, 6144, 28, 16, 8, 151936, tie_word_embeddings=True), 1_720_574_976
    ),
    "Qwen3 4B": model(
        QWEN3 | sizes(2560, 9728, 36, 32, 8, 151936, tie_word_embeddings=True), 4_022_468_096
    ),
    "Qwen3 4B Instruct 2507": model(
        QWEN3 | sizes(2560, 9728, 36, 32, 8, 151936, tie_word_embeddings=True),
        4_022_468_096,
        max_position_embeddings=262144,
        rope_theta=5000000,
    ),
    "Qwen3 8B": model(QWEN3 | sizes(4096, 12288, 36, 32, 8, 151936), 8_190_735_360),
    "R1-0528-Qwen3-8B": model(
        QWEN3 | sizes(4096, 12288, 36, 32, 8, 151936),
        8_190_735_360,
        "attn_factor",
        max_position_embeddings=131072,
        rope_scaling={"attn_factor": 0.878, "factor": 4.0, "rope_type": "yarn"}
        | {"original_max_position_embeddings": 32768},
    ),
    "Qwen3 14B": model(QWEN3 | sizes(5120, 17408, 40, 40, 8, 151936), 14_768_307_200),
    "Qwen3 32B": model(QWEN3 | sizes(5120, 25600, 64, 64, 8, 151936), 32_762_123_264),
    "Qwen3 30B-A3B": refused(QWEN3, "model_type", model_type="qwen3_moe", num_experts=128),
    "Gemma 2 2B": model(GEMMA2 | sizes(2304, 9216, 26, 8, 4, 256000), 2_614_341_888, *GEMMA2_OVER),
    "Gemma 2 9B": model(
        GEMMA2 | sizes(3584, 14336, 42, 16, 8, 256000), 9_241_705_984, *GEMMA2_OVER
    ),
    "Gemma 2 27B": model(
        GEMMA2 | sizes(4608, 36864, 46, 32, 16, 256000, head_dim=128, query_pre_attn_scalar=144),
        27_227_128_320,
        *GEMMA2_OVER,
    ),
    "Gemma 3 270M": model(
        GEMMA3 | sizes(640, 2048, 18, 4, 1, 262144) | {"sliding_window_pattern": None},
        268_098_176,
        "cache_implementation",
        _sliding_window_pattern=6,
        layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 3,
        use_bidirectional_attention=False,
    ),
    "Gemma 3 1B": model(
        GEMMA3 | sizes(1152, 6912, 26, 4, 1, 262144), 999_885_952, "cache_implementation"
    ),
    "Gemma 3 4B": refused(GEMMA3, "model_type", model_type="gemma3", vision_config={}),
    "EmbeddingGemma": refused(
        GEMMA3 | sizes(768, 1152, 24, 3, 1, 262144),
        "use_bidirectional_attention",
        use_bidirectional_attention=True,
    ),
    "Gemma 3 27B, its text part": model(
        GEMMA3 | sizes(5376, 21504, 62, 32, 16, 262208, head_dim=128, query_pre_attn_scalar=168),
        27_009_346_304,
        "cache_implementation",
        max_position_embeddings=131072,
        rope_scaling={"factor": 8.0, "rope_type": "linear"},
        sliding_window=1024,
    ),
    "Phi-3 mini 4k": model(PHI3 | PHI3_MINI, 3_821_079_552, *PHI_OVER),
    "Phi-3 mini 128k": model(
        PHI3_LONG | PHI3_MINI, 3_821_079_552, *PHI_OVER, rope_scaling=longrope(48, "su")
    ),
    "Phi-3.5 mini": model(
        PHI3_LONG | PHI3_MINI, 3_821_079_552, *PHI_OVER, rope_scaling=longrope(48)
    ),
    "Phi-3 medium 4k": model(
        PHI3 | sizes(5120, 17920, 40, 40, 10, 32064), 13_960_238_080, *PHI_OVER
    ),
    "Phi-4": model(
        PHI3 | sizes(5120, 17920, 40, 40, 10, 100352) | {"auto_map": None, "sliding_window": None},
        14_659_507_200,
        "attention_bias",
        max_position_embeddings=16384,
        original_max_position_embeddings=16384,
        rope_theta=250000,
    ),
    "Phi-4 mini": model(
        PHI4_MINI,
        3_836_021_760,
        *("attention_bias", "full_attn_mod", "interpolate_factor", "lm_head_bias", "mlp_bias"),
        "auto_map",
    ),
    "Phi-3 small": refused(PHI3 | PHI3_MINI, "model_type", model_type="phi3small"),
    "SmolLM3 3B": model(SMOLLM3, 3_075_098_624),
    "OLMo 2 1B": model(OLMO2 | sizes(2048, 8192, 16, 16, 16, 100352), 1_484_916_736),
    "OLMo 2 7B": model(OLMO2 | sizes(4096, 11008, 32, 32, 32, 100352), 7_298_617_344),
    "OLMo 2 13B": model(OLMO2 | sizes(5120, 13824, 40, 40, 40, 100352), 13_716_198_400),
    "OLMo 2 32B": model(OLMO2 | sizes(5120, 27648, 64, 40, 8, 100352), 32_234_279_936),
    "BERT": refused(LLAMA2, "model_type", model_type="bert"),
}
