"""The layers of a UNet by the names in the code that it was published with.

Trainers of adapters of Stable Diffusion XL call layers so. There a block is a residual block with
the transformer after it, numbered on through all resolutions; what changes the size stands alone
on the way down, where it is a block of its own, and last in a block on the way up.
"""

import re
from collections.abc import Iterable

BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)")
MIDDLE = {
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}
WITHIN = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
AROUND = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def original_names(layers: Iterable[str]) -> dict[str, str]:
    """Return the original name of each layer of a UNet; nothing of another network.

    Args:
        layers: all of its layers, by their names in diffusers' files.
    """
    layers = [*layers]
    first = [match for layer in layers if (match := BLOCK.match(layer)) and match[2] == "0"]
    depth = len({match[4] for match in first if match[1] == "down" and match[3] == "resnets"})
    if not depth:
        return {}
    attending = {match[2] for layer in layers if (match := BLOCK.match(layer)) and _looks(match)}
    return {layer: _original(layer, depth + 1, attending) for layer in layers}


def _looks(match: re.Match[str]) -> bool:
    return match[1] == "up" and match[3] == "attentions"


def _original(layer: str, blocks: int, attending: set[str]) -> str:
    """The name of one layer, with so many blocks in each resolution."""
    if layer in AROUND:
        return AROUND[layer]
    for name, other in MIDDLE.items():
        if layer.startswith(name):
            return other + _within(layer.removeprefix(name))
    match = BLOCK.match(layer)
    if match is None:
        return layer
    way, level, kind, number = match[1], int(match[2]), match[3], int(match[4])
    rest = _within(layer[match.end() + 1 :])
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * blocks}.0.op"
    if kind == "upsamplers":
        place = 2 if match[2] in attending else 1
        return f"output_blocks.{(level + 1) * blocks - 1}.{place}.{rest}"
    block = level * blocks + number + (way == "down")  # the first on the way down is `conv_in`
    side = "input" if way == "down" else "output"
    return f"{side}_blocks.{block}.{int(kind == 'attentions')}.{rest}"


def _within(name: str) -> str:
    return WITHIN.get(name, name)
