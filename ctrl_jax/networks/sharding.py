"""Which axes of the mesh the parameters of a decoder are divided over, by their names.

Over ``model`` (tensor parallelism, 1909.08053) a pair of products is divided inside: the outputs of
the first (queries, keys, values; gate, up) and the inputs of the second (out; down), so that a
device computes its heads and its hidden entries alone, and one sum over devices ends each half of a
block. Over ``data`` (fully sharded data parallelism, 2004.13336) the other axis is divided too: a
layer's weights are gathered when it is their turn.

An axis of the mesh that does not divide its axis of the parameter, such as 50257 tokens, takes the
other one if it divides that, and none otherwise.
"""

from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from ctrl_jax._checks import refuse

DATA, MODEL = "data", "model"
Axes = tuple[str | None, ...]

FIRST: dict[str, Axes] = {
    "kernel": (DATA, MODEL),
    "bias": (MODEL,),
    "lora_a": (DATA, None),
    "lora_b": (None, MODEL),
}
SECOND: dict[str, Axes] = {"kernel": (MODEL, DATA), "lora_a": (MODEL, None), "lora_b": (None, DATA)}
TABLES: dict[str, Axes] = {
    "tokens": (MODEL, DATA),
    "positions": (None, DATA),
    "head": (DATA, MODEL),
}
RULES: dict[tuple[str, str], Axes] = {
    (layer, leaf): axes
    for layers, rules in (
        (("query", "key", "value", "gate", "up"), FIRST),
        (("out", "down"), SECOND),
    )
    for layer in layers
    for leaf, axes in rules.items()
}


def partition_specs(tree: Any, mesh: Mesh | AbstractMesh, *, fully: bool = False) -> Any:
    """Return how a decoder's parameters are divided, as a tree of `PartitionSpec`.

    Args:
        tree: parameters, gradients, or the state of an optimizer: whatever ends in the names of a
            decoder's parameters; all else is replicated. Abstract arrays will do.
        mesh: with axes ``data`` and ``model``.
        fully: whether parameters are divided over ``data`` too.

    Raises:
        ValueError: the mesh lacks an axis.
    """
    missing = {DATA, MODEL} - {*mesh.shape}
    if missing:
        repair = "make it with both, of size 1 where nothing is divided"
        raise refuse("mesh", tuple(mesh.shape), f"it must have {DATA!r} and {MODEL!r}", repair)
    used = (DATA, MODEL) if fully else (MODEL,)

    def spec(path, leaf) -> PartitionSpec:
        layer, name = ("", "", *map(_name, path))[-2:]
        rule = RULES.get((layer, name)) or TABLES.get(name, ())
        if len(rule) != len(leaf.shape):
            return PartitionSpec()
        return _fit([axis if axis in used else None for axis in rule], leaf.shape, mesh)

    return jax.tree_util.tree_map_with_path(spec, tree)


def _name(part: Any) -> str:
    return str(next((getattr(part, kind) for kind in ("key", "name") if hasattr(part, kind)), ""))


def _fit(rule: list[str | None], shape: tuple[int, ...], mesh: Mesh | AbstractMesh):
    placed: list[str | None] = [
        axis if axis and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(rule, shape, strict=True)
    ]
    for axis in rule:
        free = [i for i, taken in enumerate(placed) if taken is None]
        fits = [i for i in free if axis and shape[i] % mesh.shape[axis] == 0]
        if axis and axis not in placed and fits:
            placed[fits[0]] = axis
    return PartitionSpec(*placed)
