"""Outputs and gradients of small transformers of Stable Diffusion 3 as diffusers computes them.

`python -m tests.oracles.sd3_transformer > tests/oracles/sd3_transformer.json`, where PyTorch is
beside diffusers 0.42, writes the stored values. The loss is the output times its `direction`.
"""

import json
from pathlib import Path

import numpy as np

from tests.oracles.named_weights import direction, load_named, slopes

STORED = Path(__file__).with_suffix(".json")
SD3 = {
    "_class_name": "SD3Transformer2DModel",
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 4,
    "num_attention_heads": 4,
    "joint_attention_dim": 12,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 10,
    "out_channels": 4,
    "pos_embed_max_size": 7,
    "dual_attention_layers": [],
    "qk_norm": None,
}
RECORDS = {
    "sd3": SD3,
    "sd3.5": SD3
    | {
        "num_layers": 4,
        "dual_attention_layers": [0, 1],
        "qk_norm": "rms_norm",
        "pos_embed_max_size": 6,
    },
    "dual to the end": SD3
    | {
        "num_layers": 2,
        "patch_size": 1,
        "out_channels": 3,
        "sample_size": 5,
        "dual_attention_layers": [0, 1],
    },
}
RNG = np.random.default_rng(5)
LATENTS = RNG.standard_normal((2, 6, 4, 4)).astype(np.float32)  # (batch, h, w, channels)
TEXT = RNG.standard_normal((2, 5, 12)).astype(np.float32)
POOLED = RNG.standard_normal((2, 10)).astype(np.float32)
TIMES = np.array([1000.0, 87.25], np.float32)
INPUTS = {"latents": LATENTS, "text": TEXT, "pooled": POOLED, "times": TIMES}


def make(record):
    """The transformer of a record, with the weights of its names."""
    from diffusers import SD3Transformer2DModel

    return load_named(SD3Transformer2DModel.from_config(record))


def predict(module, inputs=None):
    """The output (batch, h, w, channels)."""
    import torch

    inputs = inputs or {name: torch.from_numpy(array) for name, array in INPUTS.items()}
    return module(
        hidden_states=inputs["latents"].permute(0, 3, 1, 2),
        encoder_hidden_states=inputs["text"],
        pooled_projections=inputs["pooled"],
        timestep=inputs["times"],
    ).sample.permute(0, 2, 3, 1)


def values(record):
    """The output, and the slopes of all parameters and of the inputs."""
    import torch

    module = make(record)
    inputs = {name: torch.from_numpy(array).requires_grad_() for name, array in INPUTS.items()}
    out = predict(module, inputs)
    (out * torch.from_numpy(direction("out", tuple(out.shape)))).sum().backward()
    found = slopes(module) | {
        name: float((x.grad.numpy() * direction(name, tuple(x.shape))).sum())
        for name, x in inputs.items()
    }
    table = module.pos_embed.pos_embed[0].double().numpy()
    return {
        "out": np.round(out.detach().double().numpy()[:, ::2], 6).ravel().tolist(),
        "slopes": {name: round(slope, 5) for name, slope in found.items()},
        "places": np.round(table[::9], 6).tolist(),
    }


if __name__ == "__main__":
    import diffusers
    import torch

    torch.set_num_threads(1)
    rows = (f"  {json.dumps(name)}: {json.dumps(values(RECORDS[name]))}" for name in RECORDS)
    body = ",\n".join(rows)
    print(f'{{\n "diffusers": "{diffusers.__version__}",\n "values": {{\n{body}\n }}\n}}')
