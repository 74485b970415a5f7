"""The UNet of a folder of diffusers: what config.json says, and the names of its weights.

Two entries mean something else than their names. `attention_head_dim` is the number of heads: the
class took the one for the other when it was written, and files have had to go on. And
`upcast_attention` changes nothing here, where scores and softmax are in float32 always.
"""

from collections.abc import Mapping
from typing import Any

from ctrl_jax.networks.layers.activations import ACTIVATIONS
from ctrl_jax.networks.text_to_image.unet_config import AddedConditions, UNetConfig
from ctrl_jax.pretrained.diffusers.bookkeeping import USUAL, is_note
from ctrl_jax.pretrained.key_table import Source
from ctrl_jax.pretrained.record_entries import Entries
from ctrl_jax.pretrained.torch_names import torch_table

CLASS = "UNet2DConditionModel"
DEEPEST = 100  # layers of a block: what is built of more takes minutes
DOWN = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
UP = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}
MIDDLE = "UNetMidBlock2DCrossAttn"
# What the class takes where an entry is absent; null is something else.
ASSUMED = {
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "mid_block_type": MIDDLE,
    "block_out_channels": [320, 640, 1280, 1280],
    "norm_num_groups": 32,
    "flip_sin_to_cos": True,
}
ONLY = {
    "class_embeddings_concat": False,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "attention_type": "default",
}
# Read by other kinds of blocks, and of added conditions, alone.
FOREIGN = {"mid_block_only_cross_attention", "addition_embed_type_num_heads"}


def read_unet(record: Mapping[str, Any], *, name: str = "config.json") -> UNetConfig:
    """Return the description of a UNet.

    Args:
        record: the content of config.json, of `UNet2DConditionModel`.
        name: of the file, for the words of an error.

    Raises:
        ValueError: another kind of model, or an entry that is missing, wrong or not understood.
    """
    entries = Entries(record, name, ASSUMED)
    entries.expect("_class_name", CLASS)
    for key, value in ONLY.items():
        entries.expect(key, value)
    fields = _levels(entries) | _times(entries)
    entries.get("upcast_attention", bool, False)
    config = UNetConfig(
        **fields,
        in_channels=entries.count("in_channels", 4),
        out_channels=entries.count("out_channels", 4),
        middle=_middle(entries),
        linear_projection=entries.get("use_linear_projection", bool, False),
        groups=entries.count("norm_num_groups"),
        epsilon=entries.positive("norm_eps", 1e-5),
        activation=read_activation(entries),
        middle_scale=entries.positive("mid_block_scale_factor", 1.0),
        in_size=entries.count("conv_in_kernel", 3),
        out_size=entries.count("conv_out_kernel", 3),
        centered=entries.get("center_input_sample", bool, False),
        sample_size=read_side(entries, "sample_size", 64),
    )
    entries.finish(USUAL | FOREIGN, is_note)
    return config


def unet_table(target: Any) -> dict[str, Source]:
    """Return the key table of `UNet2DCondition`.

    Args:
        target: its parameters as nested dictionaries of arrays or abstract ones.
    """
    return torch_table(target)


def read_activation(entries: Entries) -> str:
    """Return the name of the activation.

    Args:
        entries: of a config.json.

    Raises:
        ValueError: it is not known.
    """
    found = entries.get("act_fn", str, "silu").lower()
    if found not in ACTIVATIONS:
        raise entries.refuse("act_fn", found, f"it must be one of {', '.join(ACTIVATIONS)}")
    return found


def read_side(entries: Entries, key: str, default: int) -> int:
    """Return the side of the square that a model was made for.

    Args:
        entries: of a config.json.
        key: of an entry that is the side, or lists height and width.
        default: where it says nothing.

    Raises:
        ValueError: it is neither, or height and width are not the same.
    """
    height, width = entries.per_level(key, 2, default)
    if height != width:
        raise entries.refuse(key, [height, width], "height and width must be the same")
    return height


def _levels(entries: Entries) -> dict[str, Any]:
    """What each resolution is."""
    widths = entries.per_level("block_out_channels", len(entries.get("block_out_channels", list)))
    levels = len(widths)
    if entries.record.get("num_attention_heads") is not None:
        rule = "diffusers takes the number of heads from attention_head_dim alone"
        raise entries.refuse("num_attention_heads", entries.record["num_attention_heads"], rule)
    if isinstance(entries.record.get("only_cross_attention"), list):
        only = tuple(entries.get("only_cross_attention", list))
    else:
        only = (entries.get("only_cross_attention", bool, False),) * levels
    if len(only) != levels or not all(isinstance(each, bool) for each in only):
        rule = f"it must be true or false, or list that for {levels} resolutions"
        raise entries.refuse("only_cross_attention", [*only], rule)
    context = {*entries.per_level("cross_attention_dim", levels, 1280)}
    if len(context) > 1:
        rule = "the text has one width everywhere"
        raise entries.refuse("cross_attention_dim", sorted(context), rule)
    return {
        "widths": widths,
        "blocks": entries.per_level("layers_per_block", levels, 2, most=DEEPEST),
        "down_attention": _kinds(entries, "down_block_types", DOWN, levels),
        "up_attention": _kinds(entries, "up_block_types", UP, levels),
        "heads": entries.per_level("attention_head_dim", levels, 8),
        "context": context.pop(),
        "depth": entries.per_level("transformer_layers_per_block", levels, 1, most=DEEPEST),
        "only_cross_attention": only,
    }


def _kinds(entries: Entries, key: str, known: Mapping[str, bool], levels: int) -> tuple[bool, ...]:
    found = entries.get(key, list)
    if len(found) != levels or not all(kind in known for kind in found):
        rule = f"it must list one of {', '.join(known)} for each of {levels} resolutions"
        raise entries.refuse(key, found, rule)
    return tuple(known[kind] for kind in found)


def _middle(entries: Entries) -> bool:
    """Whether there are blocks in the middle: null is no absent entry here, but says that none."""
    if entries.record["mid_block_type"] is None:
        entries.asked.add("mid_block_type")
        return False
    entries.expect("mid_block_type", MIDDLE)
    return True


def _times(entries: Entries) -> dict[str, Any]:
    """How the time is embedded, and what is beside it."""
    added = None
    if entries.get("addition_embed_type", str, None) is not None:
        entries.expect("addition_embed_type", "text_time")
        added = AddedConditions(
            width=entries.count("projection_class_embeddings_input_dim"),
            number_width=entries.count("addition_time_embed_dim"),
        )
    return {
        "time_width": entries.count("time_embedding_dim", None),
        "cosines_first": entries.get("flip_sin_to_cos", bool),
        "frequency_shift": entries.get("freq_shift", float, 0.0),
        "added": added,
    }
