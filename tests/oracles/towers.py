"""Outputs and gradients of small CLIP towers and T5 encoders as transformers computes them.

`python -m tests.oracles.towers > tests/oracles/towers.json`, where PyTorch is beside transformers
5.24, writes the stored values. The loss is the sum of every output times its `direction`.
"""

import json
from pathlib import Path

import numpy as np

from tests.oracles.named_weights import direction, load_named, slopes

STORED = Path(__file__).with_suffix(".json")
TEXT = {
    "model_type": "clip_text_model",
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 9,
    "hidden_act": "quick_gelu",
    "eos_token_id": 2,
    "projection_dim": 12,
}
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_channels": 3,
    "image_size": 12,
    "patch_size": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-4,
    "projection_dim": 12,
}
T5 = {
    "model_type": "t5",
    "vocab_size": 23,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 6,
}
RECORDS = {
    "text of old files": TEXT | {"architectures": ["CLIPTextModel"]},
    "text with projection": TEXT
    | {
        "architectures": ["CLIPTextModelWithProjection"],
        "eos_token_id": 21,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-4,
    },
    "text of one block": TEXT | {"architectures": ["CLIPTextModel"], "num_hidden_layers": 1},
    "vision": VISION | {"architectures": ["CLIPVisionModel"], "hidden_act": "quick_gelu"},
    "vision with projection": VISION | {"architectures": ["CLIPVisionModelWithProjection"]},
    "both": {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": 10,
        "text_config": TEXT | {"eos_token_id": 21},
        "vision_config": VISION,
    },
    "t5 gated": T5
    | {"architectures": ["T5EncoderModel"], "feed_forward_proj": "gated-gelu", "num_layers": 3},
    "t5 relu": T5
    | {
        "architectures": ["T5EncoderModel"],
        "feed_forward_proj": "relu",
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-3,
    },
}
RNG = np.random.default_rng(3)
# 21 is the end: in the middle of one text, twice in another; 22, the largest, elsewhere.
TOKENS = np.array([[3, 22, 5, 21, 0, 0, 0], [1, 21, 4, 9, 22, 21, 2]])
MASK = np.array([[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0]], bool)
LONG_TOKENS = RNG.integers(0, 23, (2, 40))
LONG_MASK = np.arange(40)[None] < np.array([[40], [29]])
PICTURES = RNG.standard_normal((2, 12, 12, 3)).astype(np.float32)


def tokens_of(name):
    """Tokens and mask of a record; T5 is given enough for all its distances."""
    return (LONG_TOKENS, LONG_MASK) if name.startswith("t5") else (TOKENS, MASK)


def loss_of(outputs, convert):
    """What is differentiated: every output times a direction of its own."""
    first, *rest = (
        (out * convert(direction(name, tuple(out.shape)))).sum() for name, out in outputs.items()
    )
    return sum(rest, first)


def make(record):
    """The module of a record, with the weights of its names."""
    import transformers

    (kind,) = record["architectures"]
    cls = getattr(transformers, kind)
    module = cls(cls.config_class(**{k: v for k, v in record.items() if k != "model_type"}))
    # Alone and without projection, the tower lacks the first word that it has in files.
    return load_named(module, prefix_of(kind)), prefix_of(kind)


def prefix_of(kind):
    return {"CLIPTextModel": "text_model.", "CLIPVisionModel": "vision_model."}.get(kind, "")


def outputs(name, module):
    """What a module returns, by name."""
    import torch

    ids, mask = (torch.from_numpy(x) for x in tokens_of(name))
    pictures = torch.from_numpy(np.moveaxis(PICTURES, -1, 1).copy())
    if name == "both":
        return {"logits": module(input_ids=ids, pixel_values=pictures).logits_per_text}
    if name.startswith("t5"):
        return {
            "hidden": module(ids).last_hidden_state,
            "masked": module(ids, attention_mask=mask.long()).last_hidden_state,
        }
    if name.startswith("vision"):
        return _of(module(pictures, output_hidden_states=True), "image_embeds")
    masked = module(ids, attention_mask=mask.long()).last_hidden_state
    return {"masked": masked} | _of(module(ids, output_hidden_states=True), "text_embeds")


def _of(found, embedding):
    kept = {
        "hidden": found.last_hidden_state,
        "penultimate": found.hidden_states[-2],
        "pooled": getattr(found, "pooler_output", None),
        "embedding": getattr(found, embedding, None),
    }
    return {name: value for name, value in kept.items() if value is not None}


def values(name):
    """Outputs and the slopes of all parameters of one record."""
    import torch

    module, prefix = make(RECORDS[name])
    found = outputs(name, module)
    loss_of(found, torch.from_numpy).backward()
    return {
        "outputs": {key: _rounded(out.detach().numpy()) for key, out in found.items()},
        "slopes": {key: round(slope, 5) for key, slope in slopes(module, prefix).items()},
    }


def _rounded(array):
    """About five rows of an output."""
    return rows(np.round(array.astype(float), 6)).tolist()


def rows(array):
    """Those of an output that are stored."""
    flat = array.reshape(-1, array.shape[-1])
    return flat[:: max(1, len(flat) // 5)]


if __name__ == "__main__":
    import torch
    import transformers

    torch.set_num_threads(1)
    body = ",\n".join(f"  {json.dumps(name)}: {json.dumps(values(name))}" for name in RECORDS)
    print(f'{{\n "transformers": "{transformers.__version__}",\n "values": {{\n{body}\n }}\n}}')
