"""Small pipelines of every kind without their weights: records as diffusers has them, tokenizers.

Vocabularies are the letters and a few words. Nothing here needs another package, so that whatever
can read a folder of diffusers can be asked what it makes of one.
"""

import json
import string
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

CLIP_TEXT = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 24,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 37,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 16,
    "model_type": "clip_text_model",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "pad_token_id": 1,
    "projection_dim": 24,
    "vocab_size": 62,
}
CLIP_G = CLIP_TEXT | {
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 16,
    "projection_dim": 20,
    "eos_token_id": 1,
    "bos_token_id": 0,
}
T5 = {
    "architectures": ["T5EncoderModel"],
    "d_ff": 37,
    "d_kv": 8,
    "d_model": 32,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 2,
    "num_heads": 4,
    "num_layers": 2,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 64,
}
UNET = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 4,
    "block_out_channels": [16, 32],
    "center_input_sample": False,
    "cross_attention_dim": 24,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 1,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 8,
    "out_channels": 4,
    "sample_size": 8,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "out_channels": 3,
    "sample_size": 16,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
}
MMDIT = {
    "_class_name": "SD3Transformer2DModel",
    "attention_head_dim": 8,
    "caption_projection_dim": 16,
    "dual_attention_layers": [0],
    "in_channels": 4,
    "joint_attention_dim": 48,
    "num_attention_heads": 2,
    "num_layers": 3,
    "out_channels": 4,
    "patch_size": 2,
    "pooled_projection_dim": 44,
    "pos_embed_max_size": 8,
    "qk_norm": "rms_norm",
    "sample_size": 8,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
FLOW = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.29.0",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}
CLIP_TOKENS = ["transformers", "CLIPTokenizer"]
CLIP = ["transformers", "CLIPTextModel"]
PROJECTED = ["transformers", "CLIPTextModelWithProjection"]
SD = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": CLIP,
    "tokenizer": CLIP_TOKENS,
}
# Kind: (model_index.json, the records of its parts).
PIPELINES = {
    "sd1": (
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.6.0",
            **SD,
            "scheduler": ["diffusers", "PNDMScheduler"],
            "feature_extractor": [None, None],
            "safety_checker": [None, None],
            "requires_safety_checker": False,
        },
        {"unet": UNET, "vae": VAE, "text_encoder": CLIP_TEXT, "scheduler": SCHEDULER},
    ),
    "sd2": (
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.8.0",
            **SD,
            "scheduler": ["diffusers", "DDIMScheduler"],
            "feature_extractor": [None, None],
            "safety_checker": [None, None],
            "requires_safety_checker": False,
        },
        {
            "unet": UNET
            | {
                "attention_head_dim": [2, 4],
                "use_linear_projection": True,
                "cross_attention_dim": 16,
                "upcast_attention": True,
                "dual_cross_attention": False,
            },
            "vae": VAE,
            "text_encoder": CLIP_G | {"architectures": ["CLIPTextModel"]},
            "scheduler": SCHEDULER
            | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
        },
    ),
    "sdxl": (
        {
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": "0.19.0.dev0",
            **SD,
            "text_encoder_2": PROJECTED,
            "tokenizer_2": CLIP_TOKENS,
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "force_zeros_for_empty_prompt": True,
        },
        {
            "unet": UNET
            | {
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
                "attention_head_dim": [2, 4],
                "use_linear_projection": True,
                "cross_attention_dim": 40,
                "transformer_layers_per_block": [1, 2],
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 20 + 6 * 8,
            },
            "vae": VAE | {"scaling_factor": 0.13025, "force_upcast": True},
            "text_encoder": CLIP_TEXT,
            "text_encoder_2": CLIP_G,
            "scheduler": SCHEDULER
            | {
                "_class_name": "EulerDiscreteScheduler",
                "interpolation_type": "linear",
                "prediction_type": "epsilon",
                "sample_max_value": 1.0,
                "timestep_spacing": "leading",
                "use_karras_sigmas": False,
            },
        },
    ),
    "sd3": (
        {
            "_class_name": "StableDiffusion3Pipeline",
            "_diffusers_version": "0.30.0",
            "transformer": ["diffusers", "SD3Transformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": PROJECTED,
            "text_encoder_2": PROJECTED,
            "text_encoder_3": ["transformers", "T5EncoderModel"],
            "tokenizer": CLIP_TOKENS,
            "tokenizer_2": CLIP_TOKENS,
            "tokenizer_3": ["transformers", "T5TokenizerFast"],
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        },
        {
            "transformer": MMDIT,
            "vae": VAE
            | {
                "scaling_factor": 1.5305,
                "shift_factor": 0.0609,
                "use_quant_conv": False,
                "use_post_quant_conv": False,
            },
            "text_encoder": CLIP_TEXT | {"architectures": ["CLIPTextModelWithProjection"]},
            "text_encoder_2": CLIP_G,
            "text_encoder_3": T5 | {"d_model": 48},
            "scheduler": FLOW,
        },
    ),
}
"""`joint_attention_dim` is d_model, as in every published model of this kind."""


def write_records(
    folder: Path, kind: str, changes: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> Path:
    """Write everything of a small pipeline but its weights, and return its folder.

    Args:
        folder: created; there must be none yet.
        kind: "sd1", "sd2", "sdxl" or "sd3".
        changes: by part, entries of its record in the place of the small ones.
    """
    index, records = PIPELINES[kind]
    folder.mkdir(parents=True)
    _write(folder / "model_index.json", index)
    for name, record in records.items():
        (folder / name).mkdir()
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        _write(folder / name / file, {**record, **changes.get(name, {})})
    for name, kind_of in _parts(index):
        if name.startswith("tokenizer"):
            writer = write_t5_tokenizer if kind_of.startswith("T5") else write_clip_tokenizer
            pad = "!" if name == "tokenizer_2" or kind == "sd2" else "<|endoftext|>"
            writer(folder / name, pad)
    return folder


def _parts(index):
    return [(n, v[1]) for n, v in index.items() if isinstance(v, list) and v[1]]


def write_clip_tokenizer(folder: Path, pad: str, longest: int = 16) -> None:
    """Write a tokenizer of letters, a few joined ones, and the words that begin and end a text.

    Args:
        folder: created.
        pad: the word that fills a text up.
        longest: number of tokens of a text.
    """
    letters = [*string.ascii_lowercase]
    joined = ["ca", "cat</w>", "do", "dog</w>", "re", "red</w>"]
    words = ["<|startoftext|>", "<|endoftext|>", "!", *letters, *(f"{c}</w>" for c in letters)]
    words += [word for word in joined if word not in words]
    folder.mkdir()
    _write(folder / "vocab.json", {word: i for i, word in enumerate(words)})
    merges = "#version: 0.2\nc a\nca t</w>\nd o\ndo g</w>\nr e\nre d</w>\n"
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    special = {"bos_token": words[0], "eos_token": words[1], "unk_token": words[1]}
    _write(folder / "special_tokens_map.json", special | {"pad_token": pad})
    record = special | {"pad_token": pad, "model_max_length": longest, "add_prefix_space": False}
    record |= {"do_lower_case": True, "errors": "replace", "tokenizer_class": "CLIPTokenizer"}
    _write(folder / "tokenizer_config.json", record)


def write_t5_tokenizer(folder: Path, pad: str, longest: int = 32) -> None:
    """Write a tokenizer of letters and two words, as T5's.

    Args:
        folder: created.
        pad: the word that fills a text up; T5 has its own.
        longest: number of tokens of a text.
    """
    words = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -2.0]]
    words += [[c, -3.0] for c in string.ascii_lowercase] + [["▁a", -2.5], ["▁cat", -3.0]]
    special = [
        {"id": i, "content": words[i][0], "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True}
        for i in range(3)
    ]
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 0}}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    record = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text, end],
            "pair": [text, end, other, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": words, "byte_fallback": False},
    }
    folder.mkdir()
    _write(folder / "tokenizer.json", record)
    special_names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    config = {"model_max_length": longest, "tokenizer_class": "T5TokenizerFast", "extra_ids": 0}
    _write(folder / "tokenizer_config.json", special_names | config)


def _write(path: Path, record: object) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
