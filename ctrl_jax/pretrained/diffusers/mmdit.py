"""`SD3Transformer2DModel` of diffusers: what config.json says, and the names of weights."""

from collections.abc import Mapping
from typing import Any

from ctrl_jax.networks.text_to_image.mmdit_config import MMDiTConfig
from ctrl_jax.pretrained.diffusers.bookkeeping import USUAL, is_note
from ctrl_jax.pretrained.key_table import Source
from ctrl_jax.pretrained.record_entries import Entries
from ctrl_jax.pretrained.torch_names import torch_table

CLASS = "SD3Transformer2DModel"
DEEPEST = 10_000
NORMS = {None: None, "rms_norm": "rms"}


def read_mmdit(record: Mapping[str, Any], *, name: str = "config.json") -> MMDiTConfig:
    """Return the description of the transformer of Stable Diffusion 3 and 3.5.

    Args:
        record: the content of config.json.
        name: of the file, for the words of an error.

    Raises:
        ValueError: another kind of model, or an entry that is missing, wrong or not understood.
    """
    entries = Entries(record, name)
    entries.expect("_class_name", CLASS)
    channels, patch = entries.count("in_channels", 16), entries.count("patch_size", 2)
    norm = entries.get("qk_norm", str, None)
    if norm not in NORMS:
        raise entries.refuse("qk_norm", norm, "it must be null or rms_norm")
    depth = entries.count("num_layers", 18, most=DEEPEST)
    config = MMDiTConfig(
        channels=channels,
        out_channels=entries.count(
            "out_channels", 16 if "out_channels" not in record else channels
        ),
        patch=patch,
        depth=depth,
        heads=entries.count("num_attention_heads", 18),
        head_width=_head_width(entries),
        text_width=entries.count("joint_attention_dim", 4096),
        pooled_width=entries.count("pooled_projection_dim", 2048),
        places=_places(entries),
        base=_base(entries, patch),
        dual=_dual(entries, depth),
        query_key_norm=NORMS[norm],
    )
    inner = entries.count("caption_projection_dim", 1152)
    if inner != config.width:
        rule = f"it must be num_attention_heads * attention_head_dim = {config.width}"
        raise entries.refuse("caption_projection_dim", inner, rule)
    entries.finish(USUAL, is_note)
    return config


def mmdit_table(shapes: Any) -> dict[str, Source]:
    """Return the key table of `mmdit`.

    Args:
        shapes: its tree of parameters.
    """
    return torch_table(shapes)


def _head_width(entries: Entries) -> int:
    width = entries.count("attention_head_dim", 64)
    if width * entries.count("num_attention_heads", 18) % 4:
        raise entries.refuse("attention_head_dim", width, "all heads must make a multiple of 4")
    return width


def _places(entries: Entries) -> int:
    if "pos_embed_max_size" in entries.record and entries.record["pos_embed_max_size"] is None:
        raise entries.refuse(
            "pos_embed_max_size", None, "a model without a stored table is not read"
        )
    return entries.count("pos_embed_max_size", 96)


def _base(entries: Entries, patch: int) -> int:
    size = entries.count("sample_size", 128)
    if size < patch:
        raise entries.refuse("sample_size", size, f"it must be at least one patch of {patch}")
    return size // patch


def _dual(entries: Entries, depth: int) -> tuple[int, ...]:
    numbers = entries.get("dual_attention_layers", list, [])
    if not all(type(number) is int for number in numbers):
        raise entries.refuse("dual_attention_layers", numbers, "it must list numbers of blocks")
    return tuple(sorted({number for number in numbers if 0 <= number < depth}))
