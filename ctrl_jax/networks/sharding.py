"""Sharding rules: which axes of the mesh a network's parameters are divided over, by their names.

Over ``model`` (tensor parallelism, 1909.08053) a pair of products is divided inside: the outputs of
the first (queries, keys, values; gate, up) and the inputs of the second (out; down), so that a
device computes its heads and its hidden entries alone, and one sum over devices ends each half of a
block. Over ``data`` (fully sharded data parallelism, 2004.13336) the other axis is divided too: a
layer's weights are gathered when it is their turn.

A table says it for one kind of network: the end of a parameter's dotted path, as a regular
expression, and an axis of the mesh or None for each of its axes; the first line that fits counts.
An axis of the mesh that does not divide its axis of the parameter, such as 50257 tokens, takes
another one if it divides that, and none otherwise. Where blocks alike are stacked, a line is of one
of them, and their own axis stays whole: every device takes part in every block.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from ctrl_jax._checks import refuse

DATA, MODEL = "data", "model"
STACK = re.compile(r"\d+-\d+")  # names of `layers.blocks`
Rule = tuple[str | None, ...]
Rules = Mapping[str, Rule]

LARGEST: Rule = ("largest",)
"""Over ``data``, on the largest axis that it divides; for parameters of any rank."""


def pairs(first: str, second: str) -> Rules:
    """Return the lines of products that are divided inside.

    Args:
        first: names of the layers that are divided by outputs, joined by ``|``.
        second: of those after them, divided by inputs.
    """
    first, second = rf"({first})\.", rf"({second})\."
    return {
        first + "kernel": (DATA, MODEL),
        first + "bias": (MODEL,),
        first + "lora_a": (DATA, None),
        first + "lora_b": (None, MODEL),
        second + "kernel": (MODEL, DATA),
        second + "lora_a": (MODEL, None),
        second + "lora_b": (None, DATA),
    }


DECODER: Rules = {
    **pairs("query|key|value|gate|up", "out|down"),
    "tokens": (MODEL, DATA),
    "positions": (None, DATA),
    "head": (DATA, MODEL),
}
"""Of `language_model`."""

CLIP: Rules = {
    **pairs("q_proj|k_proj|v_proj|fc1", "out_proj|fc2"),
    r"token_embedding\.embedding": (MODEL, DATA),
    "kernel|embedding": LARGEST,
}
"""Of `clip`, `clip_text` and `clip_vision`."""

T5: Rules = {
    **pairs("q|k|v|wi|wi_0|wi_1", "o|wo"),
    r"shared\.embedding": (MODEL, DATA),
}
"""Of `t5`."""

MMDIT: Rules = {
    **pairs(r"to_[qkv]|add_[qkv]_proj|net\.0\.proj", r"to_out\.0|to_add_out|net\.2"),
    "kernel|pos_embed": LARGEST,
}
"""Of `mmdit`; what makes shifts, scales and gates is divided over ``data`` alone."""

RESNETS: Rules = {
    r"conv1\.kernel": (None, None, DATA, MODEL),
    r"conv1\.lora_a": (None, None, DATA, None),
    r"conv1\.lora_b": (None, None, None, MODEL),
    r"time_emb_proj\.kernel": (DATA, MODEL),
    r"time_emb_proj\.lora_a": (DATA, None),
    r"time_emb_proj\.lora_b": (None, MODEL),
    r"(conv1|time_emb_proj)\.bias|resnets\.\d+\.norm2\.(scale|bias)": (MODEL,),
    r"conv2\.kernel": (None, None, MODEL, DATA),
    r"conv2\.lora_a": (None, None, MODEL, None),
    r"conv2\.lora_b": (None, None, None, DATA),
}
"""Of residual blocks of pictures, whose two convolutions are a pair."""

UNET: Rules = {
    **pairs(r"to_[qkv]|net\.0\.proj", r"to_out\.0|net\.2"),
    **RESNETS,
    "kernel": LARGEST,
}
"""Of `unet`."""

AUTOENCODER: Rules = {**RESNETS, "kernel": LARGEST}
"""Of `autoencoder`, whose attention has one head, which is not divided."""

SCORE: Rules = {"kernel|embedding|positions": LARGEST}
"""Of `MLP`, `DiT`, `UNet` and `NCSNpp`, whose products are too narrow to be divided inside: kernels
and tables over ``data``; biases, scales and frequencies are few and replicated."""


def partition_specs(
    tree: Any, mesh: Mesh | AbstractMesh, *, fully: bool = False, rules: Rules = DECODER
) -> Any:
    """Return how a network's parameters are divided, as a tree of `PartitionSpec`.

    Args:
        tree: parameters, gradients, or the state of an optimizer: whatever ends in the names of the
            network's parameters; all else is replicated. Abstract arrays will do.
        mesh: with axes ``data`` and ``model``.
        fully: whether parameters are divided over ``data`` too.
        rules: the network's table: `DECODER`, `SCORE`, `UNET`, or one of the same form.

    Raises:
        ValueError: the mesh lacks an axis.
    """
    if {DATA, MODEL} - {*mesh.shape}:
        repair = "make it with both, of size 1 where nothing is divided"
        raise refuse("mesh", tuple(mesh.shape), f"it must have {DATA!r} and {MODEL!r}", repair)
    used = (DATA, MODEL) if fully else (MODEL,)
    endings = [(re.compile(rf"(.*\.)?({ending})"), rule) for ending, rule in rules.items()]

    def spec(path, leaf) -> PartitionSpec:
        names = [*map(_name, path)]
        name, stacks = ".".join(names), sum(map(bool, map(STACK.fullmatch, names)))
        rule = next((rule for ending, rule in endings if ending.fullmatch(name)), ())
        shape = leaf.shape[stacks:]
        if rule == LARGEST:
            sizes = [size if size % mesh.shape[DATA] == 0 else 0 for size in shape]
            at = max(range(len(sizes)), key=sizes.__getitem__, default=0)
            rule = tuple(DATA if i == at and size else None for i, size in enumerate(sizes))
        if len(rule) != len(shape):
            return PartitionSpec()
        placed = _fit([axis if axis in used else None for axis in rule], shape, mesh)
        return PartitionSpec(*[None] * stacks, *placed)

    return jax.tree_util.tree_map_with_path(spec, tree)


def _name(part: Any) -> str:
    return str(next((getattr(part, kind) for kind in ("key", "name") if hasattr(part, kind)), ""))


def _fit(
    rule: list[str | None], shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> list[str | None]:
    placed: list[str | None] = [
        axis if axis and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(rule, shape, strict=True)
    ]
    for axis in rule:
        free = [i for i, taken in enumerate(placed) if taken is None]
        fits = [i for i in free if axis and shape[i] % mesh.shape[axis] == 0]
        if axis and axis not in placed and fits:
            placed[fits[0]] = axis
    return placed
