"""The autoencoder of a folder of diffusers: what config.json says, and the names of its weights.

Files from before 2023 call the layers of attention ``query``, ``key``, ``value`` and ``proj_attn``;
they are read, and written by their names of today.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ctrl_jax.networks.text_to_image.autoencoder import AutoencoderConfig
from ctrl_jax.pretrained.diffusers.bookkeeping import USUAL, is_note
from ctrl_jax.pretrained.diffusers.unet import DEEPEST, read_activation, read_side
from ctrl_jax.pretrained.key_table import Source
from ctrl_jax.pretrained.record_entries import Entries
from ctrl_jax.pretrained.torch_names import torch_table

CLASS = "AutoencoderKL"
DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
ASSUMED = {
    "block_out_channels": [64],
    "down_block_types": [DOWN],
    "up_block_types": [UP],
    "scaling_factor": 0.18215,
    "norm_num_groups": 32,
    "mid_block_add_attention": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_NAME = re.compile(rf"(.*\.attentions\.\d+)\.({'|'.join(OLD)})\.(weight|bias)")


def read_autoencoder(record: Mapping[str, Any], *, name: str = "config.json") -> AutoencoderConfig:
    """Return the description of an autoencoder.

    Args:
        record: the content of config.json, of `AutoencoderKL`.
        name: of the file, for the words of an error.

    Raises:
        ValueError: another kind of model, or an entry that is missing, wrong or not understood.
    """
    entries = Entries(record, name, ASSUMED)
    entries.expect("_class_name", CLASS)
    levels = len(entries.get("block_out_channels", list))
    entries.expect("down_block_types", [DOWN] * levels)
    entries.expect("up_block_types", [UP] * levels)
    config = AutoencoderConfig(
        in_channels=entries.count("in_channels", 3),
        out_channels=entries.count("out_channels", 3),
        latent_channels=entries.count("latent_channels", 4),
        widths=entries.per_level("block_out_channels", levels),
        blocks=entries.count("layers_per_block", 1, most=DEEPEST),
        groups=entries.count("norm_num_groups"),
        activation=read_activation(entries),
        attention=entries.get("mid_block_add_attention", bool),
        quantized=entries.get("use_quant_conv", bool),
        post_quantized=entries.get("use_post_quant_conv", bool),
        scaling_factor=entries.positive("scaling_factor"),
        shift_factor=entries.get("shift_factor", float, 0.0),
        upcast=entries.get("force_upcast", bool, True),
        sample_size=read_side(entries, "sample_size", 32),
    )
    entries.finish(USUAL, is_note)
    return config


def autoencoder_table(target: Any) -> dict[str, Source]:
    """Return the key table of `AutoencoderKL`.

    Args:
        target: its parameters as nested dictionaries of arrays or abstract ones.
    """
    return torch_table(target)


def autoencoder_arrays(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a file's arrays by the names of today.

    Args:
        found: by the names of the file.
    """
    return {_new(name): array for name, array in found.items()}


def _new(name: str) -> str:
    old = OLD_NAME.fullmatch(name)
    return name if old is None else f"{old[1]}.{OLD[old[2]]}.{old[3]}"
