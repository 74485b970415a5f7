"""ImageReward (2304.05977): how people rate a picture for a prompt, by a BLIP that reads both."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Int

from ctrl_jax._checks import refuse
from ctrl_jax._records import read_json
from ctrl_jax._sums import check_sums
from ctrl_jax.data.preferences.tokenizer import load_tokenizer
from ctrl_jax.networks.text_to_image.blip import BLIPConfig, image_reward_network
from ctrl_jax.pretrained.key_table import fill
from ctrl_jax.pretrained.language.bookkeeping import USUAL, is_bookkeeping
from ctrl_jax.pretrained.record_entries import Entries
from ctrl_jax.pretrained.torch_names import torch_table
from ctrl_jax.pretrained.weight_files import read_weights
from ctrl_jax.rewards.picture_reward import PictureReward
from ctrl_jax.rewards.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing
from ctrl_jax.rewards.prompt_tokens import prompt_tokens

FILE = "med_config.json"
MEAN, STD = 0.16717362830052426, 1.0333394966054072
LONGEST = 35  # tokens of a prompt, as its authors cut it
FLOATS = (np.float32, np.float16, jnp.bfloat16)
UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
"""What BLIP is pretrained with, and what says nothing."""
SAYS_NOTHING = USUAL | {"initializer_range", "type_vocab_size", "encoder_width"}
"""`encoder_width` is not that of the picture that the weights were made for; its authors set it."""


def image_reward(
    folder: str | os.PathLike[str], *, dtype: DTypeLike = jnp.float32, remat: bool = False
) -> PictureReward:
    """Return ImageReward: how people rate a picture for a prompt; between -2 and 2.

    It is (h - 0.16717) / 1.03334, h the number of the head of a BLIP that reads both, so that
    rewards of its authors' pictures have mean zero and variance one.

    The folder holds med_config.json as published, the tokenizer of bert-base-uncased, and the
    weights, converted once from ImageReward.pt where that file is trusted::

        state = torch.load("ImageReward.pt", weights_only=True)
        state = {name: array.contiguous() for name, array in state.items()}
        safetensors.torch.save_file(state, "ImageReward/model.safetensors")

    Args:
        folder: of the three; `encode` returns tokens (texts, 35), of which longer prompts are cut.
        dtype: type of the arithmetic and weights; the head is in float32.
        remat: whether blocks are computed again for the derivative in the pictures: less than half
            the memory, one more pass forward.

    Raises:
        ValueError: the folder lacks a file, holds another model, or has an entry that is not
            understood; of `apply`, pictures or tokens of another shape.

    Source: Xu et al. 2023 (2304.05977), section 3, and their published code.
    """
    check_sums(folder, "folder")
    record = read_json(Path(folder) / FILE, name="folder", repair="give that of ImageReward")
    arrays = read_weights(folder)
    config, pad = _read_config(Entries(record, FILE), arrays)
    network = image_reward_network(config, dtype=dtype, param_dtype=dtype, remat=remat)
    ignored = [key for key in arrays if key.startswith(UNUSED)]
    table = torch_table(network.shapes)
    params = fill(network.shapes, table, arrays, ignored=ignored, converted=FLOATS)
    side = config.image
    preprocess = Preprocessing(side, side, side, "bicubic", CLIP_MEAN, CLIP_STD)

    def apply(params, pictures, tokens):
        _check_tokens(tokens, len(pictures))
        found = network.apply(params, preprocess(pictures), tokens, tokens != pad)
        return (found - MEAN) / STD

    return PictureReward(params, apply, partial(_encode, Path(folder), config.vocabulary, pad))


def _read_config(entries: Entries, arrays: Mapping[str, Any]) -> tuple[BLIPConfig, int]:
    """The description, of which the file leaves the picture's tower to the weights."""
    entries.expect("model_type", "bert")
    entries.expect("hidden_act", "gelu")
    entries.expect("add_cross_attention", True)
    tower = "blip.visual_encoder."
    try:
        width, _, patch, _ = arrays[f"{tower}patch_embed.proj.weight"].shape
        places = arrays[f"{tower}pos_embed"].shape[1] - 1
    except (KeyError, ValueError, IndexError) as error:
        rule = "they hold no picture tower of BLIP"
        raise refuse("weights", f"{len(arrays)} arrays", rule, "convert ImageReward.pt") from error
    depth = sum(key.startswith(f"{tower}blocks.") and key.endswith(".norm1.bias") for key in arrays)
    config = BLIPConfig(
        image=patch * round(places**0.5),
        patch=patch,
        picture_width=width,
        picture_depth=max(depth, 1),
        picture_heads=max(width // 64, 1),  # in both of BLIP's sizes
        vocabulary=entries.count("vocab_size"),
        positions=entries.count("max_position_embeddings"),
        width=entries.count("hidden_size"),
        depth=entries.count("num_hidden_layers", most=1000),
        heads=entries.count("num_attention_heads"),
        hidden=entries.count("intermediate_size"),
        epsilon=entries.positive("layer_norm_eps"),
    )
    pad = entries.get("pad_token_id", int, 0)
    entries.finish(SAYS_NOTHING, is_bookkeeping)
    return config, pad


def _encode(
    folder: Path, vocabulary: int, pad: int, texts: Sequence[str]
) -> Int[Array, "texts tokens"]:
    rows = prompt_tokens(load_tokenizer(folder), texts, LONGEST)
    tokens = np.full((len(rows), LONGEST), pad, np.int32)
    for i, row in enumerate(rows):
        if max(row) >= vocabulary:
            rule = f"they must be below {vocabulary}"
            raise refuse("the tokens of a text", row, rule, "save this model's tokenizer there")
        tokens[i, : len(row)] = row
    return jnp.asarray(tokens)


def _check_tokens(tokens: Array, batch: int) -> None:
    fits = tokens.ndim == 2 and tokens.shape[0] == batch
    if not fits or not jnp.issubdtype(tokens.dtype, jnp.integer):
        rule = f"there must be a row of whole numbers for each picture, ({batch}, {LONGEST})"
        raise refuse("tokens", tokens, rule, "gather what encode returns by prompt")
