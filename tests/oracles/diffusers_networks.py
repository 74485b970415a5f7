"""Outputs and gradients of small UNets and autoencoders as diffusers computes them, in float64.

`python -m tests.oracles.diffusers_networks > tests/oracles/diffusers_networks.json`, where PyTorch
and diffusers 0.42 are, writes the stored values. The loss is the sum of every output times its
`direction`.
"""

import json
from pathlib import Path

import numpy as np

from tests.oracles.named_weights import direction, load_named, slopes

STORED = Path(__file__).with_suffix(".json")
UNET = {
    "_class_name": "UNet2DConditionModel",
    "attention_head_dim": 2,
    "block_out_channels": [8, 12],
    "cross_attention_dim": 6,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 8,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "latent_channels": 3,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "sample_size": 16,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}
RECORDS = {
    "unet of Stable Diffusion 1": UNET | {"layers_per_block": [1, 2]},
    "unet of Stable Diffusion 2": UNET
    | {
        "act_fn": "gelu",
        "attention_head_dim": [4],
        "block_out_channels": [8],
        "center_input_sample": True,
        "conv_in_kernel": 5,
        "conv_out_kernel": 1,
        "cross_attention_dim": [6],
        "down_block_types": ["CrossAttnDownBlock2D"],
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "in_channels": 5,
        "mid_block_scale_factor": 1.5,
        "norm_eps": 0.01,
        "only_cross_attention": True,
        "time_embedding_dim": 20,
        "upcast_attention": True,
        "use_linear_projection": True,
        "up_block_types": ["CrossAttnUpBlock2D"],
    },
    "unet of XL": UNET
    | {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "act_fn": "relu",
        "attention_head_dim": [2, 3],
        "cross_attention_dim": [6, 6],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "only_cross_attention": [False, True],
        "projection_class_embeddings_input_dim": 29,
        "transformer_layers_per_block": [1, 2],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "use_linear_projection": True,
    },
    "unet without middle": UNET
    | {
        "act_fn": "mish",
        "block_out_channels": [8],
        "down_block_types": ["CrossAttnDownBlock2D"],
        "mid_block_type": None,
        "up_block_types": ["UpBlock2D"],
    },
    "autoencoder of Stable Diffusion 1": VAE,
    "autoencoder of Stable Diffusion 3": VAE
    | {
        "act_fn": "gelu",
        "in_channels": 2,
        "mid_block_add_attention": False,
        "out_channels": 1,
        "shift_factor": 0.5,
        "use_post_quant_conv": False,
        "use_quant_conv": False,
    },
}
# Whose gradients are not stored: others have the same parts.
FORWARD = ("unet of Stable Diffusion 1", "autoencoder of Stable Diffusion 3")
# One odd side: the way up then has to meet the sizes of the way down.
SIDES = {"unet of Stable Diffusion 1": (5, 6)}
TIMES = np.array([3.0, 20.5], np.float32)
TEXT = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
ADDED = (
    np.random.default_rng(1).standard_normal((2, 5)).astype(np.float32),
    np.array([[8, 8, 0, 1, 8, 7], [6, 9, 2, 0, 8, 8]], np.float32),
)


def arrays_of(name):
    """What a network is given, its pictures or latents with channels last, by argument."""
    record, draw = RECORDS[name], np.random.default_rng(2).standard_normal
    if name.startswith("unet"):
        shape = (2, *SIDES.get(name, (4, 4)), record.get("in_channels", 4))
        inputs = {"sample": draw(shape), "text": TEXT}
        if "addition_embed_type" in record:
            inputs["text_embeds"] = ADDED[0]
    else:
        inputs = {
            "pictures": draw((1, 8, 4, record.get("in_channels", 3))),
            "latents": draw((1, 2, 3, record["latent_channels"])),
        }
    return {key: np.asarray(array, np.float32) for key, array in inputs.items()}


def loss_of(outputs, convert):
    """What is differentiated: every output times a direction of its own."""
    first, *rest = (
        (out * convert(direction(name, tuple(out.shape)))).sum() for name, out in outputs.items()
    )
    return sum(rest, first)


def make(name):
    """The module of a record, with the weights of its names."""
    import diffusers

    record = RECORDS[name]
    module = load_named(getattr(diffusers, record["_class_name"]).from_config(record))
    return module.double()


def outputs(name, module, inputs):
    """What a module returns, by name; its pictures have their channels first."""
    import torch

    if not name.startswith("unet"):
        law = module.encode(inputs["pictures"]).latent_dist
        decoded = module.decode(inputs["latents"]).sample
        return {"mean": law.mean, "log_variance": law.logvar, "decoded": decoded}
    added = None
    if "text_embeds" in inputs:
        ids = torch.from_numpy(ADDED[1]).double()
        added = {"text_embeds": inputs["text_embeds"], "time_ids": ids}
    times = torch.from_numpy(TIMES)
    return {
        "sample": module(
            inputs["sample"], times, inputs["text"], None, added_cond_kwargs=added
        ).sample
    }


def computed(name):
    """Outputs, and slopes of inputs (whole) and parameters (projected), channels last."""
    import torch

    module = make(name)
    inputs = {
        key: torch.from_numpy(_first(array)).double().requires_grad_()
        for key, array in arrays_of(name).items()
    }
    found = {key: _last(out) for key, out in outputs(name, module, inputs).items()}
    loss_of(found, torch.from_numpy).backward()
    return {
        "outputs": {key: out.detach().numpy() for key, out in found.items()},
        "inputs": {key: _last(x.grad).numpy() for key, x in inputs.items()},
        "slopes": slopes(module),
    }


def _first(array):
    return np.moveaxis(array, -1, 1).copy() if array.ndim == 4 else array


def _last(tensor):
    return tensor.movedim(1, -1) if tensor.ndim == 4 else tensor


def rows(array):
    """About six rows of an array: those that are stored."""
    flat = array.reshape(-1, array.shape[-1])
    return flat[:: max(1, len(flat) // 6)]


def stored(name):
    """What is stored of a record."""
    found = computed(name)
    kept = {"outputs": _rounded(found["outputs"])}
    if name in FORWARD:
        return kept
    found_slopes = {key: float(f"{slope:.6g}") for key, slope in found["slopes"].items()}
    return kept | {"inputs": _rounded(found["inputs"]), "slopes": found_slopes}


def _rounded(arrays):
    return {key: np.round(rows(array), 6).tolist() for key, array in arrays.items()}


if __name__ == "__main__":
    import diffusers
    import torch

    torch.set_num_threads(1)
    body = ",\n".join(f"  {json.dumps(name)}: {json.dumps(stored(name))}" for name in RECORDS)
    print(f'{{\n "diffusers": "{diffusers.__version__}",\n "values": {{\n{body}\n }}\n}}')
